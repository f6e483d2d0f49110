"""Groups of completions between rollout and batch: those that stay move to the front.

Rows lead every array and are spread over the devices. Moving them is a gather over the whole mesh,
so the groups that stay are spread evenly again, however they lay before. Shapes stay what they
were; places that no group fills are masked.
"""

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxqa.models.qwen2_5_vl.inputs import Prompts
from jaxqa.sharding import BATCH_AXES, replicate
from jaxqa.train.micro_batches import micro_batch_rows
from jaxqa.typing import Bool


# Not type-checked: transformations put other things than arrays into the fields.
@jax.tree_util.register_dataclass
@typing.no_type_check
@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups:
    """Prompts with G sampled completions each, and how much better each was than the others.

    Attributes:
      prompts: B rows.
      completion_ids: int32 [B G T].
      completion_mask: bool [B G T], the stop token included.
      log_probs: float32 [B G T], of the sampler.
      entropies: float32 [B G T], of the sampler.
      advantages: float32 [B G].
    """

    prompts: Prompts
    completion_ids: jax.Array
    completion_mask: jax.Array
    log_probs: jax.Array
    entropies: jax.Array
    advantages: jax.Array


def refill(
    groups: Groups,
    kept: Bool[np.ndarray, "B"],
    more: Groups,
    more_kept: Bool[np.ndarray, "N"],
    *,
    mesh: Mesh,
) -> tuple[Groups, Bool[np.ndarray, "B"]]:
    """Return the first B kept groups of both, and which of the B are kept.

    If there are fewer, groups that are not kept fill the rest. Prompts and completions of
    different buckets are padded to the larger one.
    """
    flags = np.concatenate([kept, more_kept])
    rows = _kept_first(flags)[: len(kept)]
    return _pick((groups, more), replicate(rows, mesh), mesh), flags[rows]


def to_front(
    groups: Groups, kept: Bool[np.ndarray, "B"], *, micro_batches: int, mesh: Mesh
) -> Groups:
    """Return the groups with the kept ones in the first micro-batches, and the others masked."""
    rows = np.empty(len(kept), np.int32)
    rows[micro_batch_rows(len(kept), micro_batches)] = _kept_first(kept)
    places, flags = replicate((rows, kept[rows]), mesh)
    return _masked(_pick((groups,), places, mesh), flags)


def _kept_first(kept: np.ndarray) -> np.ndarray:
    return np.argsort(~kept, kind="stable").astype(np.int32)


@jax.jit
def _masked(groups: Groups, kept: jax.Array) -> Groups:
    """Groups whose completions are masked where they are not kept."""
    mask = groups.completion_mask & kept[:, None, None]
    return dataclasses.replace(groups, completion_mask=mask)


@functools.partial(jax.jit, static_argnames="mesh")
def _pick(parts: tuple[Groups, ...], rows: jax.Array, mesh: Mesh) -> Groups:
    """Rows of the parts put one below the other."""
    joined = functools.reduce(_join, parts)
    placement = NamedSharding(mesh, P(BATCH_AXES))
    return jax.tree.map(
        lambda leaf: jax.lax.with_sharding_constraint(
            leaf.at[rows].get(mode="promise_in_bounds"), placement
        ),
        joined,
    )


_FILLS = {"vision_index": -1, "window_image": -1}
"""What stands at padding, by field of `Prompts`; elsewhere 0, which the masks hide."""


def _join(first: typing.Any, second: typing.Any) -> typing.Any:
    joined = {}
    for field in dataclasses.fields(first):
        parts = getattr(first, field.name), getattr(second, field.name)
        if dataclasses.is_dataclass(parts[0]):
            joined[field.name] = _join(*parts)
            continue
        shape = np.maximum(parts[0].shape[1:], parts[1].shape[1:])
        fill = _FILLS.get(field.name, 0)
        joined[field.name] = jnp.concatenate([_padded(part, shape, fill) for part in parts])
    return type(first)(**joined)


def _padded(leaf: jax.Array, shape: np.ndarray, fill: int) -> jax.Array:
    widths = [
        (0, 0),
        *((0, int(new - old)) for new, old in zip(shape, leaf.shape[1:], strict=True)),
    ]
    return jnp.pad(leaf, widths, constant_values=fill)
