"""Averages that merge exactly over masks, micro-batches and hosts."""

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp

from jaxqa.typing import Array, Bool, Float


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["total", "weight"], meta_fields=[]
)
@typing.no_type_check  # transformations put shapes and shardings into the fields
@dataclasses.dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean that is still a sum and a weight, so that two of them add up leaf by leaf.

    Attributes:
      total: float32 scalar, sum of the values.
      weight: float32 scalar, how many values (or how much weight) the sum holds.
    """

    total: jax.Array
    weight: jax.Array

    def merge(self, other: "Mean") -> "Mean":
        """Return the mean over both sets of values."""
        return Mean(total=self.total + other.total, weight=self.weight + other.weight)

    def compute(self) -> jax.Array:
        """Return the mean as a float32 scalar; nan if nothing was counted."""
        return self.total / self.weight


def masked_mean(values: Float[Array, "*shape"], mask: Bool[Array, "*shape"]) -> Mean:
    """Return the mean of the values where `mask` is True; values elsewhere may even be nan."""
    kept = jnp.where(mask, values.astype(jnp.float32), 0.0)
    return Mean(total=kept.sum(), weight=mask.sum(dtype=jnp.float32))
