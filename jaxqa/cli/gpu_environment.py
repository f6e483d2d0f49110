"""What training tells JAX about NVIDIA GPUs before it looks at them."""

import importlib.util
from collections.abc import MutableMapping

_FRACTION, _FORMER_NAME = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"
_OVERLAP = "--xla_gpu_enable_latency_hiding_scheduler"
_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


def prepare(environment: MutableMapping[str, str]) -> None:
    """Take 95 % of a GPU's memory, in place of 75 %, and overlap transfers with computing.

    What the user has set stays. The scheduler that overlaps is off in XLA and on in NVIDIA's own
    images of JAX; the flag is given where JAX can use NVIDIA's GPUs, and others do not heed the
    share of memory.
    """
    if _FORMER_NAME not in environment:  # JAX refuses to start with both
        environment.setdefault(_FRACTION, "0.95")
    flags = environment.get("XLA_FLAGS", "")
    if _OVERLAP not in flags and any(map(importlib.util.find_spec, _PLUGINS)):
        environment["XLA_FLAGS"] = f"{flags} {_OVERLAP}=true".strip()
