"""How one stored tensor and one (unstacked) parameter correspond, with partial reads."""

import math
from dataclasses import dataclass

import numpy as np

from jaxqa.models.safetensors_io import StoredTensor

Index = tuple[slice, ...]
Shape = tuple[int, ...]


class Transform:
    """Equal on both sides: norms, biases, embedding tables."""

    def stored_shape(self, shape: Shape) -> Shape:
        """Shape in the file of a parameter of this shape."""
        return shape

    def read(self, stored: StoredTensor, index: Index) -> np.ndarray:
        """The parameter's sub-array `index`, reading no more of the tensor than it must."""
        return stored.read(index)

    def to_stored(self, array: np.ndarray) -> np.ndarray:
        """The tensor as the file holds it, from the whole parameter."""
        return array


class Transpose(Transform):
    """A linear layer: torch stores [out, in], the kernel here is [in, out]."""

    def stored_shape(self, shape: Shape) -> Shape:
        """[out, in]."""
        return shape[::-1]

    def read(self, stored: StoredTensor, index: Index) -> np.ndarray:
        """A view of the part, transposed without a copy."""
        return stored.read(index[::-1]).T

    def to_stored(self, array: np.ndarray) -> np.ndarray:
        """[out, in]."""
        return array.T


@dataclass(frozen=True)
class PatchKernel(Transform):
    """A 3-D patch convolution [D, channels, time, p, p] as [time, channels * p * p, D]."""

    channels: int = 3

    def stored_shape(self, shape: Shape) -> Shape:
        """[D, channels, time, p, p]."""
        time, values, width = shape
        side = math.isqrt(values // self.channels)
        return (width, self.channels, time, side, side)

    def read(self, stored: StoredTensor, index: Index) -> np.ndarray:
        """The middle axis joins three stored ones, so it is cut after reading."""
        time, values, width = index
        everything = slice(None)
        block = stored.read((width, everything, time, everything, everything))
        joined = block.transpose(2, 1, 3, 4, 0).reshape(block.shape[2], -1, block.shape[0])
        return joined[:, values]

    def to_stored(self, array: np.ndarray) -> np.ndarray:
        """[D, channels, time, p, p]."""
        width, channels, time, side, _ = self.stored_shape(array.shape)
        return array.reshape(time, channels, side, side, width).transpose(4, 1, 0, 2, 3)


COPY = Transform()
LINEAR = Transpose()
