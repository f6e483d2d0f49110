"""Batches of images as trainers hold them: tensors of any library, either layout."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxqa.errors import UserError

_CHANNELS = (1, 3, 4)


def as_images(images: Any) -> list[Any]:
    """One image each, height before width before channels where they are arrays.

    Args:
      images: a batch [N, H, W, C] of uint8, or [N, C, H, W] of floats from 0 to 1 (NumPy, JAX,
        PyTorch on any device, or whatever speaks DLPack); or a sequence of images, each an array
        [H, W, C] or [C, H, W], a PIL image, encoded bytes or a path.

    Raises:
      UserError: a batch of another shape.
    """
    if _is_tensor(images):
        batch = to_numpy(images)
        if batch.ndim != 4:
            raise UserError(
                f"images is an array of shape {batch.shape}; expected [N, H, W, C] or [N, C, H, W]"
            )
        return [_channels_last(image) for image in batch]
    if isinstance(images, Sequence) and not isinstance(images, str | bytes):
        return [_channels_last(to_numpy(i)) if _is_tensor(i) else i for i in images]
    raise UserError(f"images is a {type(images).__name__}; expected a batch or a list of images")


def to_numpy(tensor: Any) -> np.ndarray:
    """A tensor's values, fetched from its device; bfloat16 becomes float32."""
    if hasattr(tensor, "detach"):  # PyTorch: NumPy takes no gradients, devices or bfloat16
        tensor = tensor.detach().cpu()
        if str(tensor.dtype).endswith("bfloat16"):
            tensor = tensor.float()
    if hasattr(tensor, "__array__"):
        return np.asarray(tensor)
    return np.from_dlpack(tensor)


def _is_tensor(value: Any) -> bool:
    """Whether a value is an array; a PIL image is none, though NumPy reads it."""
    if not (hasattr(value, "__array__") or hasattr(value, "__dlpack__")):
        return False
    return hasattr(value, "ndim") or hasattr(value, "__dlpack__")


def _channels_last(image: np.ndarray) -> np.ndarray:
    """[H, W, C] of [C, H, W]; anything else as it is."""
    if image.ndim == 3 and image.shape[0] in _CHANNELS and image.shape[2] not in _CHANNELS:
        return np.moveaxis(image, 0, -1)
    return image
