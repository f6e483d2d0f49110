"""Logits of a vocabulary in chunks of columns, summed up exactly.

Each chunk yields four numbers per position, and two such summaries merge exactly (log-sum-exp), on
one device and between devices that hold different columns.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Stands in for -inf in columns that an earlier chunk has counted already: its exponential is 0,
# and (unlike -inf) its product with that 0 is 0.
_EXCLUDED = -1e20


class Layout(NamedTuple):
    """Static facts of one pass over the columns that a device holds.

    Attributes:
      vocab_size: columns that the device holds.
      chunk_size: columns at a time, at most `vocab_size`.
      temperature: logits are divided by it.
      gathered_over: mesh axis over which the width of the head is split, or None. Each chunk is
        gathered over it, in the dtype of the product; its gradient is scattered over it.
    """

    vocab_size: int
    chunk_size: int
    temperature: float
    gathered_over: str | None = None

    @property
    def num_chunks(self) -> int:
        """Chunks, the last of which may overlap the one before it."""
        return -(-self.vocab_size // self.chunk_size)


class Summary(NamedTuple):
    """What one set of columns says about each position; z are the logits in the set, y the target.

    All fields are [*lead]: maximum m, sum of exp(z - m), sum of (z - m) exp(z - m), and z_y if the
    target is in the set, else 0. Sums relative to m keep the entropy of large logits accurate.
    """

    maximum: jax.Array
    total: jax.Array
    weighted: jax.Array
    target: jax.Array


class Residuals(NamedTuple):
    """What the backward pass reads; the logits only where they are one chunk."""

    hidden: jax.Array
    head: jax.Array
    targets: jax.Array
    log_normalizers: jax.Array
    entropies: jax.Array
    logits: jax.Array | None


def summarise(
    layout: Layout, hidden: jax.Array, head: jax.Array, targets: jax.Array
) -> tuple[Summary, jax.Array | None]:
    """Summary of all columns of `head`, and their logits if they are one chunk.

    Targets count from the first column of `head`; one outside of it is in no chunk.
    """

    def summary_of(index: jax.Array | int) -> tuple[Summary, jax.Array]:
        rows = _chunk_rows(layout, hidden, head, index)
        logits = _chunk_logits(layout, hidden, rows, index)
        return _summarise_chunk(logits, _hit(layout, targets, index)), logits

    summary, logits = summary_of(0)
    if layout.num_chunks == 1:
        return summary, logits
    summary = lax.fori_loop(
        np.int32(1),
        np.int32(layout.num_chunks),
        lambda index, merged: _merge(merged, summary_of(index)[0]),
        summary,
    )
    return summary, None


def merge_over(summary: Summary, axis: str) -> Summary:
    """Merge the summaries of all devices along a mesh axis; each gets the whole."""
    maximum = lax.pmax(summary.maximum, axis)
    moved = _move(summary, maximum)
    return Summary(maximum, *lax.psum((*moved, summary.target), axis))


def gradients(
    layout: Layout, residuals: Residuals, cotangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """What these columns add to d hidden [*lead D], float32, and d head of the device's part."""
    hidden, head = residuals.hidden, residuals.head
    if layout.num_chunks == 1:
        return _chunk_gradients(layout, residuals, cotangents, 0)

    def add_chunk(index: jax.Array, carry: tuple[jax.Array, jax.Array]):
        d_hidden, d_head = carry
        d_hidden_chunk, d_rows = _chunk_gradients(layout, residuals, cotangents, index)
        start = _chunk_start(layout, index)
        # Rows of an earlier chunk get an exact 0 here, so adding is the same as writing once.
        d_rows += lax.dynamic_slice_in_dim(d_head, start, layout.chunk_size, axis=0)
        d_head = lax.dynamic_update_slice_in_dim(d_head, d_rows, start, axis=0)
        return d_hidden + d_hidden_chunk, d_head

    zeros = (jnp.zeros(hidden.shape, _accumulator(hidden.dtype)), jnp.zeros_like(head))
    return lax.fori_loop(np.int32(0), np.int32(layout.num_chunks), add_chunk, zeros)


def _summarise_chunk(logits: jax.Array, hit: jax.Array) -> Summary:
    maximum = logits.max(axis=-1)
    centred = logits - maximum[..., None]
    weights = jnp.exp(centred)
    return Summary(
        maximum=maximum,
        total=weights.sum(axis=-1),
        weighted=(centred * weights).sum(axis=-1),
        target=jnp.where(hit, logits, 0.0).sum(axis=-1),
    )


def _merge(left: Summary, right: Summary) -> Summary:
    maximum = jnp.maximum(left.maximum, right.maximum)
    (total, weighted), (more, more_weighted) = (_move(part, maximum) for part in (left, right))
    target = left.target + right.target
    return Summary(maximum, total + more, weighted + more_weighted, target)


def _move(part: Summary, maximum: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two sums relative to another maximum."""
    shift = part.maximum - maximum
    scale = jnp.exp(shift)
    return scale * part.total, scale * (part.weighted + shift * part.total)


def _chunk_start(layout: Layout, index: jax.Array | int) -> jax.Array | int:
    """First column of chunk `index`; the last chunk is moved back so that it ends at V."""
    if layout.vocab_size % layout.chunk_size == 0:
        return index * layout.chunk_size
    return jnp.minimum(index * layout.chunk_size, layout.vocab_size - layout.chunk_size)


def _accumulator(dtype: np.dtype) -> type:
    """float32, or float64 for float64 (finite differences need it)."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def _chunk_logits(
    layout: Layout, hidden: jax.Array, rows: jax.Array, index: jax.Array | int
) -> jax.Array:
    """Logits [*lead, chunk] in float32, with columns of an earlier chunk excluded."""
    accumulator = _accumulator(hidden.dtype)
    logits = jnp.einsum("...d,vd->...v", hidden, rows, preferred_element_type=accumulator)
    logits = logits / layout.temperature
    if layout.vocab_size % layout.chunk_size == 0:
        return logits
    columns = _chunk_start(layout, index) + jnp.arange(layout.chunk_size, dtype=jnp.int32)
    fresh = (columns >= index * layout.chunk_size).reshape((1,) * (logits.ndim - 1) + (-1,))
    return jnp.where(fresh, logits, _EXCLUDED)


def _hit(layout: Layout, targets: jax.Array, index: jax.Array | int) -> jax.Array:
    """Where in the chunk the target lies, [*lead, chunk] bool."""
    columns = jnp.arange(layout.chunk_size, dtype=jnp.int32).reshape((1,) * targets.ndim + (-1,))
    # A target among the columns of an earlier chunk has been counted there.
    inside = (targets >= index * layout.chunk_size)[..., None]
    return inside & (columns == (targets - _chunk_start(layout, index))[..., None])


def _chunk_rows(
    layout: Layout, hidden: jax.Array, head: jax.Array, index: jax.Array | int
) -> jax.Array:
    """Rows of the head [chunk D], whole in width, in the dtype of the product."""
    start = _chunk_start(layout, index)
    rows = lax.dynamic_slice_in_dim(head, start, layout.chunk_size, axis=0).astype(hidden.dtype)
    if layout.gathered_over is None:
        return rows
    # Gathered side by side along its second axis, the compiler would turn the whole head over.
    parts = lax.all_gather(rows, layout.gathered_over)  # [shards chunk D/shards]
    return parts.swapaxes(0, 1).reshape(layout.chunk_size, -1)


def _chunk_gradients(
    layout: Layout,
    residuals: Residuals,
    cotangents: tuple[jax.Array, jax.Array],
    index: jax.Array | int,
) -> tuple[jax.Array, jax.Array]:
    """Chunk `index`'s share of d hidden [*lead D], and d head of its rows [chunk D]."""
    hidden, targets = residuals.hidden, residuals.targets
    rows = _chunk_rows(layout, hidden, residuals.head, index)
    logits = residuals.logits
    if logits is None:
        logits = _chunk_logits(layout, hidden, rows, index)
    # d log p_y / dz = 1_y - p;  d entropy / dz = -p (log p + entropy)
    d_log_probs, d_entropies = (cotangent[..., None] for cotangent in cotangents)
    log_p = logits - residuals.log_normalizers[..., None]
    slope = d_log_probs + d_entropies * (log_p + residuals.entropies[..., None])
    hit = _hit(layout, targets, index)
    d_logits = jnp.where(hit, d_log_probs, 0.0) - jnp.exp(log_p) * slope
    d_logits = (d_logits / layout.temperature).astype(hidden.dtype)
    accumulator = _accumulator(hidden.dtype)
    d_hidden = jnp.einsum("...v,vd->...d", d_logits, rows, preferred_element_type=accumulator)
    lead = tuple(range(targets.ndim))
    d_rows = jnp.tensordot(d_logits, hidden, axes=(lead, lead), preferred_element_type=accumulator)
    if layout.gathered_over is not None:
        d_rows = lax.psum_scatter(d_rows, layout.gathered_over, scatter_dimension=1, tiled=True)
    return d_hidden, d_rows.astype(residuals.head.dtype)
