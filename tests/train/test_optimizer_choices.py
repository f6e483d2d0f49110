"""AdamW with bfloat16 moments, Adafactor, bfloat16 accumulators: steps, bytes, places, resuming."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from jaxqa import sharding, tree
from jaxqa.train.checkpoint import Checkpoints
from jaxqa.train.optimizer import OptimizerConfig, make_optimizer
from jaxqa.train.small_moments import round_at_random
from jaxqa.train.state import create_state
from jaxqa.train.step import make_update

WIDTH = 128
"""The least width at which optax keeps rows and columns only."""
CHOICES = {
    "adamw": OptimizerConfig(learning_rate=0.01),
    "bfloat16": OptimizerConfig(learning_rate=0.01, moments="bfloat16"),
    "adafactor": OptimizerConfig(learning_rate=0.01, rule="adafactor"),
    "adafactor, no moment": OptimizerConfig(learning_rate=0.01, rule="adafactor", beta1=0.0),
    "adafactor, bfloat16": OptimizerConfig(
        learning_rate=0.01, rule="adafactor", moments="bfloat16"
    ),
}


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax raises floats to int32 counts, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def draw(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def follow(optimizer, start, gradients):
    """Parameters after each gradient, and the last state."""
    params, state, seen = {"kernel": jnp.asarray(start)}, None, []
    state = optimizer.init(params)
    for gradient in gradients:
        steps, state = optimizer.update({"kernel": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, steps)
        seen.append(np.asarray(params["kernel"]))
    return seen, state


@pytest.mark.torch
@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
def test_adamw_against_torch(moments):
    import torch

    options = dict(learning_rate=0.02, schedule="constant", weight_decay=0.1, clip_norm=0.0)
    start, gradients = draw((6, 7), 0), [draw((6, 7), seed) for seed in range(1, 9)]
    found, _ = follow(
        make_optimizer(OptimizerConfig(moments=moments, **options), 8), start, gradients
    )
    weight = torch.nn.Parameter(torch.from_numpy(start.copy()))
    theirs = torch.optim.AdamW([weight], lr=0.02, weight_decay=0.1, eps=1e-8)
    for gradient, ours in zip(gradients, found, strict=True):
        weight.grad = torch.from_numpy(gradient)
        theirs.step()
        # The whole way is up to 0.02 per step; bfloat16 moments may cost a few % of it.
        error = np.abs(ours - weight.detach().numpy()).max()
        assert error < (3e-6 if moments == "float32" else 0.02 * 0.1)
    assert moments == "float32" or error > 1e-5


def test_adafactor_against_optax():
    config = OptimizerConfig(
        learning_rate=0.02, schedule="constant", rule="adafactor", clip_norm=0.0
    )
    start, gradients = draw((3, WIDTH, 2 * WIDTH), 0), [draw((3, WIDTH, 2 * WIDTH), 1)] * 3
    theirs = optax.adafactor(0.02, multiply_by_parameter_scale=False, momentum=0.9)
    found, _ = follow(make_optimizer(config, 3), start, gradients)
    expected, _ = follow(theirs, start, gradients)
    for ours, truth in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-7)


def test_rounding_at_random_is_right_on_average_and_exact_where_it_can_be():
    x = np.float32(1 + 1 / 512)  # a quarter of the way from 1 to the next bfloat16
    rounded = np.asarray(round_at_random(jnp.full((200, 200), x), jnp.uint32(5)), np.float32)
    assert set(rounded.ravel()) == {1.0, 1.0078125}
    assert (rounded > 1).mean() == pytest.approx(0.25, abs=0.01)
    for axis in (0, 1):  # no stripes: rows and columns scatter as coins do, 1 in 200 ** 0.5
        assert (rounded > 1).mean(axis).std() == pytest.approx((0.25 * 0.75 / 200) ** 0.5, rel=0.2)
    exact = draw(1000, 0).astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(round_at_random(jnp.asarray(exact), jnp.uint32(1)), exact)


def test_second_moment_falls_again_after_large_gradients_which_plain_rounding_prevents():
    optimizer = make_optimizer(OptimizerConfig(moments="bfloat16", clip_norm=0.0), 2000)
    sizes = [1.0] * 500 + [0.0] * 1500
    exact, plain = np.float32(0), ml_dtypes.bfloat16(0)
    params = {"kernel": jnp.ones((20, 20))}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for size in sizes:
        _, state = update({"kernel": jnp.full((20, 20), size)}, state, params)
        exact = np.float32(0.999) * exact + np.float32(0.001 * size)
        old = np.float32(plain)
        plain = ml_dtypes.bfloat16(np.float32(0.999) * old + np.float32(0.001 * size))
    found = np.asarray(state[0].nu["kernel"], np.float32).mean()
    assert found == pytest.approx(exact, rel=0.02)
    assert np.float32(plain) > 2 * exact  # it stalls


def placed(mesh):
    """Parameters in the shapes and places of the text tower's."""
    shapes = {
        "model/layers/mlp/up_proj/kernel": (2, WIDTH, 2 * WIDTH),
        "model/layers/self_attn/o_proj/kernel": (2, WIDTH, WIDTH),
        "model/layers/self_attn/q_proj/bias": (2, WIDTH),
        "model/norm/weight": (WIDTH,),
    }
    params = tree.unflatten({path: draw(shape, 0) for path, shape in shapes.items()})
    places = sharding.tree_shardings(params, sharding.QWEN2_5_VL_RULES, mesh)
    return jax.device_put(params, places)


BYTES = {
    "adamw": 8,
    "bfloat16": 4,
    "adafactor": 4,
    "adafactor, no moment": 0,
    "adafactor, bfloat16": 2,
}
"""Per parameter of a large matrix."""


@pytest.mark.parametrize("choice", CHOICES)
def test_types_sizes_and_places_of_the_state(choice):
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    state = create_state(placed(mesh), make_optimizer(CHOICES[choice], 10))
    leaves = tree.flatten(state.opt_state)
    up = "model/layers/mlp/up_proj/kernel"
    owned = {path: leaf for path, leaf in leaves.items() if path.endswith(up)}
    held = sum(leaf.nbytes for leaf in owned.values())
    kernel = state.params["model"]["layers"]["mlp"]["up_proj"]["kernel"]
    assert held == pytest.approx(BYTES[choice] * kernel.size, abs=0.05 * kernel.size)
    for path, leaf in owned.items():
        spec = leaf.sharding.spec
        if leaf.shape == kernel.shape:
            assert spec == kernel.sharding.spec
            assert leaf.dtype == ("bfloat16" if "bfloat16" in choice else "float32")
        elif "v_row" in path:
            assert leaf.shape == (2, WIDTH) and spec == jax.P(None, "fsdp")
        elif "v_col" in path:
            assert leaf.shape == (2, 2 * WIDTH) and spec == jax.P(None, "tensor")
        else:
            assert leaf.size == 1
        assert leaf.ndim < 2 or leaf.dtype == "float32" or leaf.shape == kernel.shape
    square = [leaf for path, leaf in leaves.items() if "v_row" in path and "o_proj" in path]
    assert all(leaf.sharding.spec == jax.P(None, "tensor") for leaf in square)


def least_squares(params, batch):
    """Mean square of products with every matrix, and a little of everything else."""
    leaves = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 3]
    total = sum(jnp.square(batch["x"] @ leaf).sum() for leaf in leaves)
    rest = sum(leaf.sum() for leaf in jax.tree.leaves(params) if leaf.ndim < 3)
    return (total + rest) / batch["count"], ({}, None)


def batch_of(mesh, seed):
    return sharding.shard_rows({"x": draw((4, WIDTH), seed), "count": np.float32(4)}, mesh)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_resumed_run_is_the_undisturbed_one_to_the_bit(choice, tmp_path):
    mesh = sharding.make_mesh(sharding.MeshConfig())
    config = CHOICES[choice]
    optimizer = make_optimizer(config, 6)
    update = make_update(
        least_squares,
        optimizer,
        learning_rate=optax.constant_schedule(1.0),
        micro_batches=2,
        accumulator="bfloat16",
    )
    checkpoints = Checkpoints(tmp_path / "stage")
    state = create_state(placed(mesh), optimizer)
    for step in range(4):
        if step == 2:
            checkpoints.save(2, state, {})
            checkpoints.wait()
        state = update(state, batch_of(mesh, step))[0]
    again, _ = checkpoints.restore(2, create_state(placed(mesh), optimizer))
    checkpoints.close()
    for step in (2, 3):
        again = update(again, batch_of(mesh, step))[0]
    for one, other in zip(*map(jax.tree.leaves, (state, again)), strict=True):
        np.testing.assert_array_equal(one, other)


def compiled(choice, *, micro_batches=1, accumulator="float32"):
    """Bytes of arguments and temporaries of an update, per parameter."""
    mesh = sharding.make_mesh(sharding.MeshConfig())
    optimizer = make_optimizer(CHOICES[choice], 6)
    update = make_update(
        least_squares,
        optimizer,
        learning_rate=optax.constant_schedule(1.0),
        micro_batches=micro_batches,
        accumulator=accumulator,
    )
    shapes = {"kernel": (8, WIDTH, 8 * WIDTH), "other": {"kernel": (8, WIDTH, 8 * WIDTH)}}
    params = jax.tree.map(jnp.zeros, shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    state = create_state(jax.device_put(params, sharding.replicated(mesh)), optimizer)
    memory = update.lower(state, batch_of(mesh, 0)).compile().memory_analysis()
    assert memory.alias_size_in_bytes >= tree.count_bytes(state.params)  # donated
    count = tree.count_parameters(state.params)
    return memory.argument_size_in_bytes / count, memory.temp_size_in_bytes / count


def test_memory_of_the_compiled_update():
    """On a CPU; its compiler joins fewer steps than a TPU's, see docs/training_memory.md."""
    temporaries = {}
    for choice, expected in BYTES.items():
        arguments, temporaries[choice] = compiled(choice)
        assert arguments == pytest.approx(4 + expected, abs=0.2)
    assert max(temporaries.values()) < 12.5  # the gradients' 4, and no more than two such again


def test_bfloat16_accumulators_take_two_bytes_less():
    _, wide = compiled("adamw", micro_batches=4)
    _, narrow = compiled("adamw", micro_batches=4, accumulator="bfloat16")
    assert narrow <= wide - 1.9


def test_bfloat16_accumulators_cost_digits_and_no_more():
    mesh, optimizer = sharding.make_mesh(sharding.MeshConfig()), optax.sgd(1.0)
    found = {}
    for accumulator in ("float32", "bfloat16"):
        update = make_update(
            least_squares,
            optimizer,
            learning_rate=optax.constant_schedule(1.0),
            micro_batches=4,
            accumulator=accumulator,
        )
        start = placed(mesh)
        before = jax.device_get(start)
        after = update(create_state(start, optimizer), batch_of(mesh, 0))[0].params
        found[accumulator] = tree.flatten(jax.tree.map(np.subtract, before, jax.device_get(after)))
    for path, truth in found["float32"].items():
        error = np.abs(found["bfloat16"][path] - truth).max()
        assert error < 0.01 * np.abs(truth).max()
        assert error > 0 or truth.ndim < 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "adafactor", "beta2": 0.9}, "AdamW's"),
        ({"rule": "adafactor", "epsilon": 1e-6}, "AdamW's"),
        ({"rule": "adafactor", "beta1": 0.0, "moments": "bfloat16"}, "no moment"),
    ],
)
def test_what_has_no_effect_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**options)
