"""Low-rank adapters in a parameter tree: told apart, merged into the kernels, written for PEFT."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxqa import tree
from jaxqa.files import atomic_directory, write_json
from jaxqa.models import safetensors_io
from jaxqa.models.qwen2_5_vl.weights import NESTED_PREFIXES, ROWS
from jaxqa.models.safetensors_io import TensorSpec
from jaxqa.nn.lora import LoraConfig
from jaxqa.typing import Array, Float, Params

_A, _B = "/lora_a", "/lora_b"


def is_adapter(path: str) -> bool:
    """Whether the parameter of this "/"-joined path belongs to an adapter."""
    return path.endswith((_A, _B))


def without_adapters(params: Params) -> Params:
    """The parameters under the adapters, not copied."""
    return tree.split(params, is_adapter)[1]


def merge(params: Params, config: LoraConfig) -> Params:
    """Every parameter in float32, the adapters added to their kernels; `params` stay as they are.

    One parameter after the other: beside both trees there is one product at a time.
    """
    leaves = tree.flatten(params)

    def merged(path: str) -> Array:
        kernel = leaves[path].astype(jnp.float32)
        owner = path.removesuffix("/kernel")
        if owner + _A not in leaves:
            return kernel
        return _add_product(
            kernel, leaves[owner + _A], leaves[owner + _B], jnp.float32(config.scale)
        )

    return tree.unflatten({path: merged(path) for path in leaves if not is_adapter(path)})


@jax.jit
def _add_product(kernel: Array, a: Array, b: Array, scale: Array) -> Float[Array, "..."]:
    product = jnp.matmul(a.astype(jnp.float32), b.astype(jnp.float32), precision="highest")
    return kernel + scale * product


def save_peft(directory: Path, params: Params, config: LoraConfig, *, base: str) -> None:
    """Write the adapters as a directory that PEFT loads on the model `base`, whole or not at all.

    Names are those of `transformers`' modules, as PEFT writes them; tensors are float32.

    Raises:
      UserError: `directory` is taken or cannot be written.
    """
    tensors = _peft_tensors(params)
    modules = sorted({name.split(".lora_")[0].removeprefix(_PREFIX) for name in tensors})
    values = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": modules,
    }
    with atomic_directory(directory) as temporary:
        specs = {n: TensorSpec(shape=t.shape, dtype=t.dtype) for n, t in tensors.items()}
        size = sum(spec.nbytes for spec in specs.values())
        safetensors_io.write_directory(
            temporary, specs, tensors.__getitem__, max_shard_bytes=max(size, 1)
        )
        (temporary / safetensors_io.SINGLE_FILE).rename(temporary / "adapter_model.safetensors")
        write_json(temporary / "adapter_config.json", values)


_PREFIX = "base_model.model."


def _peft_tensors(params: Params) -> dict[str, np.ndarray]:
    """Adapters by PEFT's names: A [r in] and B [out r], one pair for each layer."""
    leaves, tensors = tree.flatten(params), {}
    for row in ROWS:
        for suffix, name in ((_A, "lora_A"), (_B, "lora_B")):
            path = row.path.removesuffix("/kernel") + suffix
            if path not in leaves:
                continue
            stacked = np.asarray(jax.device_get(leaves[path]), np.float32)
            for layer, matrix in enumerate(stacked if row.stacked else stacked[None]):
                module = _module(row.stored.format(layer).removesuffix(".weight"))
                tensors[f"{_PREFIX}{module}.{name}.weight"] = np.ascontiguousarray(matrix.T)
    return tensors


def _module(name: str) -> str:
    """`transformers`' name of a module, from the Hub's."""
    for nested, flat in NESTED_PREFIXES:
        if name.startswith(flat):
            return nested + name.removeprefix(flat)
    return name
