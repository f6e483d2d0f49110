"""Log-probabilities where rows and head are split over a mesh, against one device."""

import functools

import hlo_text
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxqa import sharding
from jaxqa.objectives.log_probabilities import token_log_probs

ROWS = P(sharding.BATCH_AXES)
HEAD_RULE = (("head", P("tensor", "fsdp")),)  # as the families' rows have it


def make_mesh(data: int, fsdp: int, tensor: int):
    return sharding.make_mesh(sharding.MeshConfig(data=data, fsdp=fsdp, tensor=tensor))


@functools.partial(jax.jit, static_argnames=("mesh", "chunk_size"))
def values_and_gradients(hidden, head, targets, cotangents, *, mesh=None, chunk_size=5):
    """Both outputs, then both gradients."""
    outputs, pull_back = jax.vjp(
        lambda h, w: token_log_probs(
            h, w, targets, temperature=0.7, chunk_size=chunk_size, mesh=mesh
        ),
        hidden,
        head,
    )
    return outputs + pull_back(cotangents)


def draw(*, vocab: int, width: int, dtype=np.float32):
    rng = np.random.default_rng(vocab)
    lead = (8, 2, 3)
    hidden = rng.normal(size=(*lead, width)).astype(dtype)
    head = rng.normal(size=(vocab, width)).astype(np.float32)
    targets = rng.integers(0, vocab, lead).astype(np.int32)
    targets[0, 0] = [0, vocab - 1, vocab // 2]  # the edges of the devices' shares
    return hidden, head, targets, tuple(rng.normal(size=(2, *lead)).astype(np.float32))


def place(inputs, mesh):
    """Rows over `data` and `fsdp`, the head as the parameters' rule places it."""
    spec = sharding.partition_spec("head", inputs[1].shape, HEAD_RULE, mesh)
    specs = (ROWS, spec, ROWS, (ROWS, ROWS))
    return tuple(
        jax.device_put(part, jax.tree.map(lambda s: NamedSharding(mesh, s), places))
        for part, places in zip(inputs, specs, strict=True)
    )


@pytest.mark.parametrize(
    ("axes", "vocab", "width", "chunk_size"),
    [
        ((2, 2, 2), 44, 12, 5),
        ((1, 2, 4), 44, 12, 64),  # one chunk: logits are kept
        ((1, 8, 1), 44, 16, 5),
        ((2, 1, 4), 42, 12, 5),  # 4 divides no vocabulary of 42: every device has all of it
        ((2, 2, 2), 45, 13, 64),  # nothing divides
    ],
)
def test_every_mesh_gives_what_one_device_gives(axes, vocab, width, chunk_size):
    inputs, mesh = draw(vocab=vocab, width=width), make_mesh(*axes)
    expected = values_and_gradients(*inputs, chunk_size=chunk_size)
    found = values_and_gradients(*place(inputs, mesh), mesh=mesh, chunk_size=chunk_size)
    for ours, truth in zip(found, expected, strict=True):
        scale = np.abs(truth).max()
        np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-5 * scale)
    for copies in (found[0], found[3]):  # of what several devices hold, all hold the same
        shards = {}
        for shard in copies.addressable_shards:
            first = shards.setdefault(str(shard.index), shard.data)
            np.testing.assert_array_equal(shard.data, first)


def test_a_spread_vocabulary_sums_where_one_device_overflows_nothing():
    """Very different largest logits on the two devices, as after a long training."""
    hidden, head, targets, cotangents = draw(vocab=44, width=12)
    head[22:] *= 60
    inputs, mesh = (hidden, head, targets, cotangents), make_mesh(1, 4, 2)
    expected = values_and_gradients(*inputs)
    found = values_and_gradients(*place(inputs, mesh), mesh=mesh)
    for ours, truth in zip(found, expected, strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=1e-4 * np.abs(truth).max())


def lowered(axes, *, vocab: int, dtype=jnp.float32, chunk_size: int, rows=(8, 16), width: int = 16):
    mesh = make_mesh(*axes)

    def like(spec, dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    numbers = like(ROWS, jnp.float32, *rows)
    arguments = (
        like(ROWS, dtype, *rows, width),
        like(P("tensor", "fsdp"), jnp.float32, vocab, width),
        like(ROWS, jnp.int32, *rows),
        (numbers, numbers),
    )
    return mesh, values_and_gradients.lower(*arguments, mesh=mesh, chunk_size=chunk_size)


@pytest.mark.parametrize("axes", [(2, 2, 2), (1, 2, 4)])
def test_no_column_of_the_head_leaves_its_device(axes):
    mesh, program = lowered(axes, vocab=96, dtype=jnp.bfloat16, chunk_size=8)
    found = list(hlo_text.collectives(program.compile().as_text()))
    gathers = [one for one in found if one.kind == "all-gather"]
    assert gathers and all(np.prod(one.shape) == 8 * 16 for one in gathers)  # a chunk
    assert not any(one.spans(mesh, "tensor") for one in gathers)
    over_tensor = [one for one in found if one.spans(mesh, "tensor")]
    rows = 8 // (axes[0] * axes[1])
    # Numbers per position, and d hidden: nothing as large as a column more.
    assert {one.shape for one in over_tensor} == {(rows, 16), (rows, 16, 16)}
    # The CPU compiler turns bfloat16 collectives into float32; the program as written has them.
    gathered = [line for line in program.as_text().splitlines() if "stablehlo.all_gather" in line]
    assert gathered and all("bf16>" in line for line in gathered)


def test_left_to_the_compiler_the_head_is_gathered():
    """What the mesh is handed over for: the truth of the test above can be false."""
    mesh, program = lowered((2, 2, 2), vocab=96, chunk_size=8)
    assert mesh.size == 8
    arguments = program.in_avals[0]
    shardings = jax.tree.leaves(program.compile().input_shardings[0])
    placed = [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
        for leaf, place in zip(jax.tree.leaves(arguments), shardings, strict=True)
    ]
    plain = values_and_gradients.lower(*placed[:3], tuple(placed[3:]), chunk_size=8)
    found = hlo_text.collectives(plain.compile().as_text())
    assert any(one.kind == "all-gather" and one.spans(mesh, "tensor") for one in found)


@pytest.mark.parametrize("axes", [(1, 1, 1), (1, 4, 2), (2, 1, 4)])
def test_temporary_memory_does_not_follow_the_vocabulary(axes):
    """V four times as large; over `data`, the head's gradient is summed into a second copy."""

    def temporary(vocab: int) -> int:
        _, program = lowered(axes, vocab=vocab, chunk_size=256, rows=(8, 64), width=32)
        return program.compile().memory_analysis().temp_size_in_bytes

    small, large = temporary(4096), temporary(16384)
    copy = 4 * 32 * (16384 - 4096) // (axes[1] * axes[2]) if axes[0] > 1 else 0
    assert large <= 1.2 * small + copy
    logits = 4 * 8 * 64 * 16384 // np.prod(axes)
    assert large - copy < logits / 4


def test_rows_that_do_not_divide_are_left_to_the_compiler():
    hidden, head, targets, cotangents = draw(vocab=44, width=12)
    six = (hidden[:6], head, targets[:6], tuple(part[:6] for part in cotangents))
    expected = values_and_gradients(*six)
    found = values_and_gradients(*six, mesh=make_mesh(2, 2, 2))
    for ours, truth in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-5)
