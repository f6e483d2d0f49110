"""Log-probabilities and entropies of tokens, without ever holding all logits at once.

The vocabulary is read in chunks of columns (`vocabulary_chunks.py`), so memory grows with
`chunk_size` and not with V. The backward pass recomputes each chunk's logits: it keeps the inputs
and two numbers per position.

On a mesh the head lies as `jaxqa/sharding.py` places it: its columns (tokens) split over `tensor`,
its width over `fsdp`. Each device scans the columns of its own `tensor` share for its own rows of
the batch. Of the head, one chunk at a time is gathered over `fsdp`, in the dtype of the product;
nothing is ever gathered over `tensor`, where only per-position numbers meet (a maximum and sums),
and in the backward pass the sum of d hidden. The gradient of each chunk is scattered over `fsdp` at
once, in float32, and the finished gradient is summed over `data` at the end.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxqa.objectives.vocabulary_chunks import Layout, Residuals, gradients, merge_over, summarise
from jaxqa.sharding import BATCH_AXES
from jaxqa.typing import Array, Float, Int

DEFAULT_CHUNK_SIZE = 4096


def token_log_probs(
    hidden: Float[Array, "*lead D"],
    head: Float[Array, "V D"],
    targets: Int[Array, "*lead"],
    *,
    temperature: float = 1.0,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "*lead"], Float[Array, "*lead"]]:
    """Return log-probability of each target and entropy (nats) of softmax(hidden @ head.T / t).

    The product is taken in `hidden`'s dtype (`head` is cast chunk by chunk) and accumulated in
    float32; both results are float32 and differentiable with respect to `hidden` and `head`.
    Targets must lie in [0, V). A vocabulary of at most `chunk_size` is one chunk, whose logits are
    kept for the backward pass instead of being computed again.

    Args:
      hidden: the leading axis holds the rows of the batch.
      head: output table.
      targets: token ids.
      temperature: of the softmax.
      chunk_size: columns at a time, on each device.
      mesh: over which rows and head are split. None, and rows that it does not divide, leave it to
        the compiler, which may gather the head.

    Raises:
      ValueError: an impossible option.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, expected a number above 0")
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}, expected at least 1")
    placement = _place(mesh, hidden.shape, head.shape)
    columns = head.shape[0] // placement.vocabulary_shards
    layout = Layout(columns, min(chunk_size, columns), float(temperature), placement.width_axis)
    return _log_probs_and_entropies(placement, layout, hidden, head, targets.astype(jnp.int32))


class _Placement(NamedTuple):
    """How rows and head lie on the mesh; without a mesh, nothing is done by hand.

    An axis that does not divide V or D leaves it whole, as `sharding.partition_spec` does.
    """

    mesh: Mesh | None = None
    vocabulary_axis: str | None = None
    width_axis: str | None = None

    @property
    def vocabulary_shards(self) -> int:
        if self.mesh is None or self.vocabulary_axis is None:
            return 1
        return self.mesh.shape[self.vocabulary_axis]

    @property
    def head(self) -> P:
        return P(self.vocabulary_axis, self.width_axis)

    @property
    def summed_axes(self) -> tuple[str, ...]:
        """Axes over which d head is still to be summed: those of the rows, but the scattered."""
        sizes = {} if self.mesh is None else self.mesh.shape
        return tuple(a for a in BATCH_AXES if a != self.width_axis and sizes.get(a, 1) > 1)


def _place(mesh: Mesh | None, hidden: tuple[int, ...], head: tuple[int, ...]) -> _Placement:
    shards = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    if mesh is None or mesh.size == 1 or len(hidden) < 2 or hidden[0] % shards:
        return _Placement()

    def splits(axis: str, size: int) -> bool:
        return mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0

    return _Placement(
        mesh=mesh,
        vocabulary_axis="tensor" if splits("tensor", head[0]) else None,
        width_axis="fsdp" if splits("fsdp", head[1]) else None,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _log_probs_and_entropies(
    placement: _Placement, layout: Layout, hidden: jax.Array, head: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return _forward(placement, layout, hidden, head, targets)[0]


def _forward(
    placement: _Placement, layout: Layout, hidden: jax.Array, head: jax.Array, targets: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], Residuals]:
    local = functools.partial(_local_forward, placement, layout)
    if placement.mesh is not None:
        local = jax.shard_map(
            local,
            mesh=placement.mesh,
            in_specs=(P(BATCH_AXES), placement.head, P(BATCH_AXES)),
            out_specs=_results(placement, layout, targets.ndim),
            check_vma=False,  # results are made equal by hand along axes that their specs leave out
        )
    log_probs, entropies, log_normalizers, logits = local(hidden, head, targets)
    residuals = Residuals(hidden, head, targets, log_normalizers, entropies, logits)
    return (log_probs, entropies), residuals


def _local_forward(
    placement: _Placement, layout: Layout, hidden: jax.Array, head: jax.Array, targets: jax.Array
):
    axis = placement.vocabulary_axis
    summary, logits = summarise(layout, hidden, head, targets - _first_column(placement, layout))
    if axis is not None:
        summary = merge_over(summary, axis)
    log_total = jnp.log(summary.total)
    log_probs = summary.target - summary.maximum - log_total
    entropies = log_total - summary.weighted / summary.total
    return log_probs, entropies, summary.maximum + log_total, logits


def _backward(
    placement: _Placement,
    layout: Layout,
    residuals: Residuals,
    cotangents: tuple[jax.Array, jax.Array],
):
    local = functools.partial(_local_backward, placement, layout)
    if placement.mesh is not None:
        rows, (*_, logits) = P(BATCH_AXES), _results(placement, layout, residuals.targets.ndim)
        specs: list[Any] = [rows, placement.head, rows, rows, rows, logits]
        local = jax.shard_map(
            local,
            mesh=placement.mesh,
            in_specs=(Residuals(*specs), (rows, rows)),
            out_specs=(rows, placement.head),
            check_vma=False,
        )
    return *local(residuals, cotangents), None


def _local_backward(
    placement: _Placement,
    layout: Layout,
    residuals: Residuals,
    cotangents: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    targets = residuals.targets - _first_column(placement, layout)
    d_hidden, d_head = gradients(layout, residuals._replace(targets=targets), cotangents)
    if placement.vocabulary_axis is not None:
        d_hidden = lax.psum(d_hidden, placement.vocabulary_axis)
    if placement.summed_axes:
        d_head = lax.psum(d_head, placement.summed_axes)
    return d_hidden.astype(residuals.hidden.dtype), d_head


def _first_column(placement: _Placement, layout: Layout) -> jax.Array | int:
    if placement.vocabulary_axis is None:
        return 0
    return lax.axis_index(placement.vocabulary_axis) * layout.vocab_size


def _results(placement: _Placement, layout: Layout, rank: int) -> tuple[P, P, P, P | None]:
    """Specs of `_local_forward`'s results; the logits only where they are one chunk."""
    rows = P(BATCH_AXES)
    whole = (None,) * (rank - 1)
    logits = P(BATCH_AXES, *whole, placement.vocabulary_axis) if layout.num_chunks == 1 else None
    return rows, rows, rows, logits


_log_probs_and_entropies.defvjp(_forward, _backward)
