"""Norm, rotary embeddings, linear maps, embeddings and stacked layers."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jaxqa.nn import rope
from jaxqa.nn.embedding import Embedding
from jaxqa.nn.feed_forward import GatedFeedForward
from jaxqa.nn.linear import Linear
from jaxqa.nn.norm import RMSNorm
from jaxqa.nn.stack import Remat, scan_layers, stack_layers

FLOAT32 = jnp.dtype("float32")


def options(seed=0):
    return {"stddev": 0.5, "dtype": FLOAT32, "rngs": nnx.Rngs(seed)}


def test_norm_has_unit_mean_square_times_weight():
    norm = RMSNorm(3, epsilon=1e-6, dtype=FLOAT32)
    norm.weight[...] = jnp.float32([1.0, 2.0, -1.0])
    found = norm(jnp.float32([[1.0, 2.0, 2.0]]))
    np.testing.assert_allclose(found, np.array([[1.0, 4.0, -2.0]]) / np.sqrt(3), rtol=1e-6)


def test_norm_of_bfloat16_is_computed_in_float32():
    norm = RMSNorm(512, epsilon=1e-6, dtype=FLOAT32)
    x = jnp.asarray(np.random.default_rng(0).normal(100, 1, (4, 512)), jnp.bfloat16)
    found = norm(x)
    assert found.dtype == jnp.bfloat16
    exact = np.asarray(x, np.float64)
    exact /= np.sqrt((exact**2).mean(-1, keepdims=True))
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=2**-8)


def test_linear_adds_its_bias_and_keeps_the_input_dtype():
    linear = Linear(3, 2, use_bias=True, **options())
    linear.bias[...] = jnp.float32([1.0, -1.0])
    x = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(np.float32)
    wanted = x @ np.asarray(linear.kernel[...]) + [1.0, -1.0]
    np.testing.assert_allclose(linear(jnp.asarray(x)), wanted, rtol=1e-5, atol=1e-6)
    assert linear(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16


def test_feed_forward_gates_with_silu():
    layer = GatedFeedForward(3, 5, use_bias=False, **options())
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    weights = (np.asarray(m.kernel[...]) for m in (layer.gate_proj, layer.up_proj, layer.down_proj))
    gate, up, down = weights
    wanted = (x @ gate / (1 + np.exp(-x @ gate)) * (x @ up)) @ down
    np.testing.assert_allclose(layer(jnp.asarray(x)), wanted, rtol=1e-5, atol=1e-6)


def test_embedding_looks_up_rows():
    table = Embedding(7, 3, **options())
    ids = jnp.int32([[0, 6], [3, 3]])
    found = table(ids, dtype=jnp.dtype("bfloat16"))
    wanted = table.embedding[...][ids].astype(jnp.bfloat16)
    np.testing.assert_array_equal(found, wanted)


def test_rotation_depends_on_distance_only():
    rng = np.random.default_rng(0)
    query, key = rng.standard_normal((2, 1, 1, 8)).astype(np.float32)
    products = []
    for start in (0, 5, 100):
        positions = jnp.int32([[start + 7], [start]])
        cos, sin = rope.text_rotation(positions, head_dim=8, theta=1e4)
        turned = [
            rope.rotate(jnp.asarray(x), (cos[i : i + 1], sin[i : i + 1]))
            for i, x in enumerate((query, key))
        ]
        products.append(float((turned[0] * turned[1]).sum()))
    np.testing.assert_allclose(products, products[0], rtol=1e-4)


def test_multimodal_rotation_with_equal_positions_is_the_text_rotation():
    positions = jnp.int32([[0, 3, 9]])
    text = rope.text_rotation(positions, head_dim=12, theta=1e4)
    stacked = jnp.stack([positions] * 3, axis=1)
    multimodal = rope.multimodal_rotation(stacked, head_dim=12, theta=1e4, sections=(1, 2, 3))
    np.testing.assert_array_equal(text, multimodal)


@pytest.mark.parametrize("axis", range(3))
def test_each_section_follows_its_axis(axis):
    positions = np.zeros((1, 3, 2), np.int32)
    positions[0, axis] = [4, 9]
    _, sin = rope.multimodal_rotation(
        jnp.asarray(positions), head_dim=12, theta=1e4, sections=(1, 2, 3)
    )
    section = np.repeat(range(3), (1, 2, 3)) == axis
    np.testing.assert_array_equal(np.asarray(sin != 0).all((0, 1)), section)
    np.testing.assert_array_equal(np.asarray(sin != 0).any((0, 1)), section)


def test_axial_rotation_turns_half_with_rows_and_half_with_columns():
    cos, sin = rope.axial_rotation(jnp.int32([[3, 5]]), head_dim=8, theta=1e4)
    angles = np.array([[3.0, 3 / 100, 5.0, 5 / 100]])
    np.testing.assert_allclose(cos, np.cos(angles), rtol=1e-6)
    np.testing.assert_allclose(sin, np.sin(angles), rtol=1e-6)


def build_layer(rngs):
    return Linear(4, 4, use_bias=True, stddev=0.5, dtype=FLOAT32, rngs=rngs)


@pytest.mark.parametrize(
    ("depth", "remat"),
    [(2, "none"), (3, "none"), (2, "full"), *((3, policy) for policy in get_args(Remat)[1:])],
)
def test_scanned_layers_equal_a_loop(depth, remat):
    layers = stack_layers(build_layer, depth, nnx.Rngs(0))
    kernels = np.asarray(layers.kernel[...])
    assert kernels.shape == (depth, 4, 4)
    assert len(np.unique(kernels)) == kernels.size
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    shifts = jnp.arange(1, depth + 1, dtype=jnp.float32)

    def step(layer, x, shift):
        return layer(x) + shift, x

    run = jax.jit(lambda x: scan_layers(layers, step, x, shifts, remat=remat))
    found, before = run(jnp.asarray(x))
    for kernel, shift, seen in zip(kernels, shifts, before, strict=True):
        np.testing.assert_allclose(seen, x, rtol=1e-5, atol=1e-6)
        x = x @ kernel + float(shift)
    np.testing.assert_allclose(found, x, rtol=1e-5, atol=1e-6)


def test_policies_keep_less_and_less_and_give_the_same_gradients():
    """Bytes that a layer leaves for its backward pass, counted in the compiled program."""
    depth, width = 12, 16
    layers = stack_layers(
        lambda rngs: Linear(width, width, use_bias=True, stddev=0.2, dtype=FLOAT32, rngs=rngs),
        depth,
        nnx.Rngs(0),
    )
    x = jnp.asarray(np.random.default_rng(0).standard_normal((256, width)), jnp.float32)

    def step(layer, x, _):
        key = checkpoint_name(jnp.sin(layer(x)), "key")
        wide = jnp.concatenate([layer(key * factor) for factor in (1.0, 2.0, 3.0)], -1)
        # A small step: the layers must not amplify what rounding changes.
        return x + 0.1 * jnp.tanh(wide).reshape(*x.shape, -1).sum(-1), None

    temporary, gradients = {}, {}
    for remat in ("none", "dots", "attention", "offload", "full"):
        run = jax.grad(lambda x, remat=remat: scan_layers(layers, step, x, remat=remat)[0].sum())
        program = jax.jit(run).lower(x).compile()
        temporary[remat] = program.memory_analysis().temp_size_in_bytes
        gradients[remat] = program(x)
        np.testing.assert_allclose(gradients[remat], gradients["none"], rtol=1e-5, atol=1e-5)
    sizes = list(temporary.values())
    # On a CPU the host's memory is the device's, so that offloading saves nothing.
    assert sizes[0] > sizes[1] > sizes[2] >= sizes[3] > sizes[4], temporary
