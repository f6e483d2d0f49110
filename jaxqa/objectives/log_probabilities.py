"""Log-probabilities and entropies of tokens, without ever holding all logits at once.

The vocabulary is read in chunks of columns. Each chunk yields four numbers per position, and two
such summaries merge exactly (log-sum-exp), so memory grows with `chunk_size` and not with V. The
backward pass recomputes each chunk's logits: it keeps the inputs and two numbers per position.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxqa.typing import Array, Float, Int

DEFAULT_CHUNK_SIZE = 4096

# Stands in for -inf in columns that an earlier chunk has counted already: its exponential is 0,
# and (unlike -inf) its product with that 0 is 0.
_EXCLUDED = -1e20


def token_log_probs(
    hidden: Float[Array, "*lead D"],
    head: Float[Array, "V D"],
    targets: Int[Array, "*lead"],
    *,
    temperature: float = 1.0,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> tuple[Float[Array, "*lead"], Float[Array, "*lead"]]:
    """Return log-probability of each target and entropy (nats) of softmax(hidden @ head.T / t).

    The product is taken in `hidden`'s dtype (`head` is cast chunk by chunk) and accumulated in
    float32; both results are float32 and differentiable with respect to `hidden` and `head`.
    Targets must lie in [0, V). A vocabulary of at most `chunk_size` is one chunk, whose logits are
    kept for the backward pass instead of being computed again.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, expected a number above 0")
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}, expected at least 1")
    layout = _Layout(head.shape[0], min(chunk_size, head.shape[0]), float(temperature))
    return _log_probs_and_entropies(layout, hidden, head, targets.astype(jnp.int32))


class _Layout(NamedTuple):
    """Static facts of one call."""

    vocab_size: int
    chunk_size: int
    temperature: float

    @property
    def num_chunks(self) -> int:
        return -(-self.vocab_size // self.chunk_size)


class _Summary(NamedTuple):
    """What one set of columns says about each position; z are the logits in the set, y the target.

    All fields are [*lead]: maximum m, sum of exp(z - m), sum of (z - m) exp(z - m), and z_y if the
    target is in the set, else 0. Sums relative to m keep the entropy of large logits accurate.
    """

    maximum: jax.Array
    total: jax.Array
    weighted: jax.Array
    target: jax.Array


class _Residuals(NamedTuple):
    """What the backward pass reads; the logits only where they are one chunk."""

    hidden: jax.Array
    head: jax.Array
    targets: jax.Array
    log_normalizers: jax.Array
    entropies: jax.Array
    logits: jax.Array | None


def _summarise(logits: jax.Array, hit: jax.Array) -> _Summary:
    maximum = logits.max(axis=-1)
    centred = logits - maximum[..., None]
    weights = jnp.exp(centred)
    return _Summary(
        maximum=maximum,
        total=weights.sum(axis=-1),
        weighted=(centred * weights).sum(axis=-1),
        target=jnp.where(hit, logits, 0.0).sum(axis=-1),
    )


def _merge(left: _Summary, right: _Summary) -> _Summary:
    maximum = jnp.maximum(left.maximum, right.maximum)
    total = jnp.zeros_like(maximum)
    weighted = jnp.zeros_like(maximum)
    for part in (left, right):
        shift = part.maximum - maximum
        scale = jnp.exp(shift)
        total += scale * part.total
        weighted += scale * (part.weighted + shift * part.total)
    return _Summary(maximum, total, weighted, left.target + right.target)


def _chunk_start(layout: _Layout, index: jax.Array | int) -> jax.Array | int:
    """First column of chunk `index`; the last chunk is moved back so that it ends at V."""
    if layout.vocab_size % layout.chunk_size == 0:
        return index * layout.chunk_size
    return jnp.minimum(index * layout.chunk_size, layout.vocab_size - layout.chunk_size)


def _accumulator(dtype: np.dtype) -> type:
    """float32, or float64 for float64 (finite differences need it)."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def _chunk_logits(
    layout: _Layout, hidden: jax.Array, rows: jax.Array, index: jax.Array | int
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


def _hit(layout: _Layout, targets: jax.Array, index: jax.Array | int) -> jax.Array:
    """Where in the chunk the target lies, [*lead, chunk] bool."""
    columns = jnp.arange(layout.chunk_size, dtype=jnp.int32).reshape((1,) * targets.ndim + (-1,))
    # A target among the columns of an earlier chunk has been counted there.
    inside = (targets >= index * layout.chunk_size)[..., None]
    return inside & (columns == (targets - _chunk_start(layout, index))[..., None])


def _chunk_rows(
    layout: _Layout, hidden: jax.Array, head: jax.Array, index: jax.Array | int
) -> jax.Array:
    start = _chunk_start(layout, index)
    rows = lax.dynamic_slice_in_dim(head, start, layout.chunk_size, axis=0)
    return rows.astype(hidden.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _log_probs_and_entropies(
    layout: _Layout, hidden: jax.Array, head: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return _forward(layout, hidden, head, targets)[0]


def _forward(layout: _Layout, hidden: jax.Array, head: jax.Array, targets: jax.Array):
    def summary_of(index: jax.Array | int) -> tuple[_Summary, jax.Array]:
        rows = _chunk_rows(layout, hidden, head, index)
        logits = _chunk_logits(layout, hidden, rows, index)
        return _summarise(logits, _hit(layout, targets, index)), logits

    summary, logits = summary_of(0)
    if layout.num_chunks > 1:
        summary = lax.fori_loop(
            np.int32(1),
            np.int32(layout.num_chunks),
            lambda index, merged: _merge(merged, summary_of(index)[0]),
            summary,
        )
    log_total = jnp.log(summary.total)
    log_probs = summary.target - summary.maximum - log_total
    entropies = log_total - summary.weighted / summary.total
    residuals = _Residuals(
        hidden=hidden,
        head=head,
        targets=targets,
        log_normalizers=summary.maximum + log_total,
        entropies=entropies,
        logits=logits if layout.num_chunks == 1 else None,
    )
    return (log_probs, entropies), residuals


def _backward(layout: _Layout, residuals: _Residuals, cotangents: tuple[jax.Array, jax.Array]):
    hidden, head = residuals.hidden, residuals.head
    if layout.num_chunks == 1:
        d_hidden, d_head = _chunk_gradients(layout, residuals, cotangents, 0)
        return d_hidden.astype(hidden.dtype), d_head, None

    def add_chunk(index: jax.Array, carry: tuple[jax.Array, jax.Array]):
        d_hidden, d_head = carry
        d_hidden_chunk, d_rows = _chunk_gradients(layout, residuals, cotangents, index)
        start = _chunk_start(layout, index)
        # Rows of an earlier chunk get an exact 0 here, so adding is the same as writing once.
        d_rows += lax.dynamic_slice_in_dim(d_head, start, layout.chunk_size, axis=0)
        d_head = lax.dynamic_update_slice_in_dim(d_head, d_rows, start, axis=0)
        return d_hidden + d_hidden_chunk, d_head

    zeros = (jnp.zeros(hidden.shape, _accumulator(hidden.dtype)), jnp.zeros_like(head))
    d_hidden, d_head = lax.fori_loop(np.int32(0), np.int32(layout.num_chunks), add_chunk, zeros)
    return d_hidden.astype(hidden.dtype), d_head, None


def _chunk_gradients(
    layout: _Layout,
    residuals: _Residuals,
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
    return d_hidden, d_rows.astype(residuals.head.dtype)


_log_probs_and_entropies.defvjp(_forward, _backward)
