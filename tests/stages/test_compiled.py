"""What is read out of a compiled program's text."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxqa import sharding
from jaxqa.nn.embedding import Embedding
from jaxqa.stages import compiled

TEXT = """\
HloModule jit_update, input_output_alias={ {0}: (1, {}, may-alias), {1, 0}: (2, {}, must-alias) }, x

%fused (p: bf16[8,4]) -> bf16[8,4] {
  %p = bf16[8,4]{1,0} parameter(0)
  ROOT %m = bf16[8,4]{1,0:T(8,128)(2,1)} multiply(%p, %p)
}

ENTRY %main (a: f32[4,16], b: f32[4000,32]) -> (f32[4,16], f32[]) {
  %a = f32[4,16]{1,0} parameter(0)
  %ag = f32[32,16]{1,0} all-gather(%a), dimensions={0}, metadata={op_name="jit(update)/layer/dot"}
  %start = (f32[4,16]{1,0}, bf16[64,32]{1,0}) all-gather-start(%a), dimensions={0}
  %table = f32[32,4000]{1,0} transpose(%b), metadata={op_name="jit(update)/table"}
  %rows = f32[6,4000]{1,0} dot(%a, %b), metadata={op_name="jit(update)/one token each"}
  %logits = f32[2,3,5,4000]{3,2,1,0} dot(%a, %b), metadata={op_name="jit(update)/logits"}
  %folded = f32[1,4,8,5000]{3,2,1,0} dot(%a, %b), metadata={op_name="jit(update)/logits"}
  %table = bf16[1,32,6000]{2,1,0} dot(%a, %b), metadata={op_name="jit(update)/head"}
  %share = bf16[40,1000]{1,0} dot(%a, %b), metadata={op_name="jit(update)/share"}
  ROOT %t = (f32[4,16]{1,0}, f32[]) tuple(%a, %s)
}
"""


def test_arrays_of_every_computation_are_found():
    found = list(compiled.buffers(TEXT))
    assert [(b.op, str(b)) for b in found[:4]] == [
        ("multiply", "bf16[8,4]"),
        ("all-gather", "f32[32,16]"),
        ("all-gather-start", "f32[4,16]"),
        ("all-gather-start", "bf16[64,32]"),
    ]
    assert found[0].size == 8 * 4 * 2


def test_the_largest_array_of_a_collective_may_have_begun_earlier():
    largest = compiled.largest(compiled.buffers(TEXT), "all-gather")
    assert str(largest) == "bf16[64,32]"
    without = compiled.buffers(TEXT.replace("all-gather-start", "copy-start"))
    assert "layer/dot" in compiled.largest(without, "all-gather").origin
    assert compiled.largest(compiled.buffers(TEXT), "all-reduce") is None
    summed = compiled.buffers(TEXT.replace("all-gather-start", "all-reduce-start"))
    assert str(compiled.largest(summed, "all-reduce")) == "bf16[64,32]"


def test_logits_are_told_from_tables_and_from_single_tokens():
    def found(vocabulary):
        return compiled.largest_vocabulary_block(compiled.buffers(TEXT), vocabulary, {32}, 7)

    assert str(found({4000})) == "f32[2,3,5,4000]"
    assert str(found({1000})) == "bf16[40,1000]"
    assert str(found({5000})) == "f32[1,4,8,5000]"  # as many rows as the model is wide, folded
    assert found({6000}) is None and found({77}) is None


def test_donated_arrays_are_counted():
    assert compiled.aliases(TEXT) == 2
    assert compiled.aliases("HloModule x, entry_computation_layout={}") == 0


def test_what_was_donated_is_reused_whole_or_not_at_all():
    place = NamedSharding(sharding.make_mesh(sharding.MeshConfig(fsdp=2)), P())
    given = [jax.ShapeDtypeStruct(shape, np.float32, sharding=place) for shape in ((3, 5), (7,))]
    unread = [jax.ShapeDtypeStruct(shape, np.float32, sharding=place) for shape in ((), (1,))]
    size = 4 * (3 * 5 + 7)
    assert compiled.is_reused([], "HloModule x", 0)
    assert compiled.is_reused(given + unread, TEXT, size)
    assert not compiled.is_reused(given, TEXT, size - 1)
    assert not compiled.is_reused(given + given[:1], TEXT, 2 * size)  # TEXT has two aliases


@pytest.mark.parametrize("donated", [True, False])
def test_a_real_program(donated):
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=4))
    rows = NamedSharding(mesh, P("fsdp"))
    x = jax.ShapeDtypeStruct((8, 64), np.float32, sharding=rows)
    step = jax.jit(lambda x: x + 1.0, donate_argnums=0 if donated else (), out_shardings=rows)
    program, memory = compiled.compile_measured(step.lower(x))
    assert compiled.bytes_on_chip(x) == 8 * 64 * 4 // 4
    assert compiled.aliases(program.as_text()) == donated
    assert memory.arguments == memory.outputs == 512
    assert memory.aliased == 512 * donated
    assert 0 <= memory.temporaries < 512  # constants alone
    assert memory.peak == memory.planned + memory.program


@pytest.mark.parametrize("donated", [True, False])
def test_temporaries_are_those_that_a_program_needs(donated):
    """`x - tanh(x y) y'` keeps a product, and a second one where the result may not lie in it."""
    x = jax.ShapeDtypeStruct((256, 256), np.float32)
    step = jax.jit(lambda x, y: x - jnp.tanh(x @ y) @ y.T, donate_argnums=0 if donated else ())
    _, memory = compiled.compile_measured(step.lower(x, x))
    array = 256 * 256 * 4
    assert memory.aliased == array * donated
    assert memory.temporaries // array == 1 + donated


def test_rows_stay_where_they_are_and_weights_are_gathered():
    """The one constraint of `Linear`, seen in the program: activations are never put together."""
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=8))
    rows = NamedSharding(mesh, P(sharding.BATCH_AXES))
    x = jax.ShapeDtypeStruct((8 * 128, 32), np.float32, sharding=rows)
    kernel = jax.ShapeDtypeStruct((32, 24), np.float32, sharding=NamedSharding(mesh, P("fsdp")))

    def gathered(active):
        def layer(x, kernel):
            with sharding.on_mesh(active):
                return jnp.tanh(sharding.constrain_rows(sharding.constrain_rows(x) @ kernel)).sum()

        text = jax.jit(layer).lower(x, kernel).compile().as_text()
        return {b.shape for b in compiled.buffers(text) if b.op == "all-gather"}

    assert gathered(mesh) == {(32, 24)}


@pytest.mark.parametrize("axes", [(4, 2, 1), (2, 2, 2), (1, 8, 1), (2, 1, 4)])
def test_embeddings_of_all_rows_are_never_put_together(axes):
    """Forward and backward: rows of a batch travel as token ids, or as columns for rows."""
    config = sharding.MeshConfig(**dict(zip(("data", "fsdp", "tensor"), axes, strict=True)))
    mesh = sharding.make_mesh(config)
    table = Embedding(64, 32, stddev=1.0, dtype=np.dtype(np.float32), rngs=nnx.Rngs(0))
    graph, state = nnx.split(table)
    ids = np.random.default_rng(0).integers(0, 64, (16, 3, 5), dtype=np.int32)

    def loss(state, ids, mesh):
        with sharding.on_mesh(mesh):
            x = nnx.merge(graph, state)(jnp.asarray(ids), dtype=jnp.dtype("float32"))
            return (sharding.constrain_rows(x) ** 3).sum()

    def lie(spec):
        return NamedSharding(mesh, spec)

    step = jax.jit(
        jax.value_and_grad(functools.partial(loss, mesh=mesh)),
        in_shardings=(lie(P("tensor", "fsdp")), lie(P(sharding.BATCH_AXES))),
        out_shardings=(lie(P()), lie(P("tensor", "fsdp"))),
    )
    program = step.lower(state, ids).compile()
    gathered = {b.dtype for b in compiled.buffers(program.as_text()) if b.op == "all-gather"}
    assert gathered <= {"s32"}
    found, expected = step(state, ids), jax.value_and_grad(loss)(state, ids, None)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_constraints_do_nothing_without_a_mesh():
    x = jnp.zeros((3, 5))  # no number of devices divides it
    assert sharding.constrain_rows(x) is x
    with sharding.on_mesh(sharding.make_mesh(sharding.MeshConfig())):
        assert sharding.constrain(x, None, "tensor") is x
