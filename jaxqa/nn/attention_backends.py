"""Which attention runs on which chip, and what each cannot do."""

import importlib.util
from typing import Any, Literal

from jaxqa.errors import UserError

Backend = Literal["auto", "xla", "chunked", "cudnn", "tokamax"]
"""`docs/attention.md` says what each is."""

_HOPPER = (9, 0)


def choose(
    choice: Backend,
    *,
    device: Any,
    num_devices: int,
    compute_dtype: str,
    head_dims: tuple[int, ...],
) -> Backend:
    """The backend that `choice` means on these devices.

    `auto` takes cuDNN on Hopper and newer; elsewhere it stays, and each call takes `xla` or
    `chunked` by its size, see `jaxqa.nn.attention`.

    Args:
      choice: of the run.
      device: one of those that compute; what else matters is its `platform`, and, on a GPU, its
        `compute_capability`.
      num_devices: of the mesh.
      compute_dtype: of queries, keys and values.
      head_dims: widths of the heads of all towers.

    Raises:
      UserError: a backend that cannot compute this here. None is ever replaced by another.
    """
    if choice == "auto":
        fast = _capability(device) >= _HOPPER
        return "cudnn" if fast and not _cudnn_lacks(device, compute_dtype, head_dims) else "auto"
    if choice == "cudnn":
        _refuse(choice, _cudnn_lacks(device, compute_dtype, head_dims))
    if choice == "tokamax":
        _refuse(choice, _tokamax_lacks(num_devices))
    return choice


def _refuse(choice: str, lack: str | None) -> None:
    if lack is not None:
        raise UserError(f"model.attention is {choice!r}, which {lack}; 'auto' takes what runs here")


def _cudnn_lacks(device: Any, compute_dtype: str, head_dims: tuple[int, ...]) -> str | None:
    """What of `jax._src.cudnn.fused_attention_stablehlo.check_is_flash_attention` fails."""
    capability = _capability(device)
    widest = 256 if capability >= _HOPPER else 128
    if not capability:
        return f"needs an NVIDIA GPU; the device is a {device.platform}"
    if compute_dtype == "float32":
        return "computes in bfloat16 or float16 only; model.compute_dtype is 'float32'"
    if any(width % 8 or width > widest for width in head_dims):
        return (
            f"needs heads of a multiple of 8, at most {widest} wide; this model's are "
            f"{' and '.join(map(str, head_dims))}"
        )
    return None


def _tokamax_lacks(num_devices: int) -> str | None:
    if importlib.util.find_spec("tokamax") is None:
        return "is not installed; pip install tokamax"
    if num_devices > 1:
        return (
            f"runs on one device here, because its kernels split nothing; there are {num_devices}"
        )
    return None


def _capability(device: Any) -> tuple[int, ...]:
    """CUDA compute capability; empty, and so less than any, on other devices."""
    if device.platform not in ("gpu", "cuda"):
        return ()
    capability = getattr(device, "compute_capability", "")  # an AMD GPU's is a name, as gfx90a
    parts = str(capability).split(".")
    return tuple(map(int, parts)) if all(part.isdigit() for part in parts) else ()
