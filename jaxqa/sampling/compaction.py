"""Completions that go on move together, so that those that have ended cost nothing more.

G places of a row belong to one prompt at first. Later a row has fewer places, and a prompt with
more unfinished completions than that takes several rows, each with the prompt's keys and values.
Rows move only inside their block of B / D: with a block for each of the D devices that share the
rows, nothing travels between devices.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxqa.sampling.decoding import Places
from jaxqa.typing import Array, Bool, Int

_HALVINGS = 2


def widths(num_samples: int) -> tuple[int, ...]:
    """Places in a row that a program is compiled for, at most 3: G, a half, a quarter."""
    found = [-(-num_samples // 2**halving) for halving in range(_HALVINGS + 1)]
    return tuple(dict.fromkeys(found))


def rows_needed(places: Places, num_samples: int, blocks: int) -> tuple[Array, ...]:
    """Rows that the fullest block's unfinished completions need, at each of `widths`.

    int32 scalars, all 0 once every completion has ended.
    """
    size = places.active.shape[0] // blocks
    active, prompts = _in_blocks(places, num_samples, blocks)
    counts = jax.vmap(lambda a, p: _per_prompt(a, p, size))(active, prompts)
    return tuple((-(-counts // width)).sum(-1).max() for width in widths(num_samples))


def compact(
    prefix: Any, places: Places, cache: Any, *, num_samples: int, blocks: int, width: int
) -> tuple[Any, Places, Any]:
    """Move the unfinished completions together into rows of `width` places, of which there must
    be enough (`rows_needed`); the number of rows stays."""
    size, old_width = places.active.shape[0] // blocks, places.active.shape[1]
    active, prompts = _in_blocks(places, num_samples, blocks)
    sources = jax.vmap(lambda a, p: _assign(a, p, size, width))(active, prompts)  # [D b width]
    taken, sources = sources >= 0, jnp.maximum(sources, 0)

    def move(leaf: Array) -> Array:
        """[B g] -> [B width]."""
        return jax.vmap(lambda block, source: block[source])(
            leaf.reshape(blocks, -1), sources
        ).reshape(-1, width)

    active = taken.reshape(-1, width)
    nobody = jnp.int32(size * blocks * num_samples)
    places = Places(
        keys=move(places.keys),
        tokens=move(places.tokens),
        active=active,
        origin=jnp.where(active, move(_origin(places)), nobody),
    )
    return prefix.take(sources[:, :, 0] // old_width), places, cache.take(sources)


def _origin(places: Places) -> Int[Array, "B g"]:
    if places.origin is not None:
        return places.origin
    return jnp.arange(places.active.size, dtype=jnp.int32).reshape(places.active.shape)


def _in_blocks(
    places: Places, num_samples: int, blocks: int
) -> tuple[Bool[Array, "D N"], Int[Array, "D N"]]:
    """Which places of each block are active, and the prompt of each, counted inside its block."""
    size = places.active.shape[0] // blocks
    prompts = (_origin(places) // num_samples).reshape(blocks, -1)
    first = size * jnp.arange(blocks, dtype=jnp.int32)
    return places.active.reshape(blocks, -1), prompts - first[:, None]


def _per_prompt(active: Bool[Array, "N"], prompts: Int[Array, "N"], size: int) -> Int[Array, "b"]:
    """Unfinished completions of each of `size` prompts."""
    return jnp.zeros(size, jnp.int32).at[prompts].add(active.astype(jnp.int32), mode="drop")


def _assign(
    active: Bool[Array, "N"], prompts: Int[Array, "N"], size: int, width: int
) -> Int[Array, "b width"]:
    """Which of N places moves to each of the new ones; -1 where none does.

    A row is filled from its front, and holds completions of one prompt only.
    """
    counts = _per_prompt(active, prompts, size)
    rows = -(-counts // width)
    first_row, first_rank = jnp.cumsum(rows) - rows, jnp.cumsum(counts) - counts
    by_prompt = jnp.where(active, prompts, size)
    order = jnp.argsort(by_prompt, stable=True)
    prompt = jnp.minimum(by_prompt[order], size - 1)
    rank = jnp.arange(len(order), dtype=jnp.int32) - first_rank[prompt]
    target = (first_row[prompt] + rank // width) * width + rank % width
    target = jnp.where(active[order], target, size * width)
    found = jnp.full(size * width, -1, jnp.int32).at[target].set(order, mode="drop")
    return found.reshape(size, width)
