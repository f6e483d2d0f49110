"""Micro-batches add up to the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxqa import sharding
from jaxqa.metrics import states
from jaxqa.train.micro_batches import micro_batch_rows
from jaxqa.train.state import create_state
from jaxqa.train.step import make_update

RATE = optax.constant_schedule(0.1)


def objective(params, batch):
    """Weighted least squares: mean over the whole batch, whose weight travels with it."""
    error = batch["x"] @ params["kernel"] - batch["y"]
    loss = jnp.square(error).sum() / batch["count"]
    return loss, ({"error": states.masked_mean(error, batch["y"] > 0)}, 2 * error)


def make(rows, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3)).astype(np.float32)
    y = rng.normal(size=rows).astype(np.float32)
    return {"x": x, "y": y, "count": np.float32(rows)}


@pytest.mark.parametrize("micro_batches", [1, 2, 3, 6])
def test_micro_batches_equal_the_whole_batch(micro_batches):
    mesh = sharding.make_mesh(sharding.MeshConfig())
    optimizer = optax.sgd(0.1)
    batch = sharding.shard_rows(make(6), mesh)

    def run(parts):
        params = jax.device_put({"kernel": jnp.ones(3)}, sharding.replicated(mesh))
        update = make_update(objective, optimizer, learning_rate=RATE, micro_batches=parts)
        state, metrics, outputs = update(create_state(params, optimizer), batch)
        return state.params["kernel"], metrics["loss"], metrics["error"].compute(), outputs

    for value, expected in zip(run(micro_batches), run(1), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-6)


def counting(params, batch):
    """Least squares of the rows that are not masked; says how often it was computed."""
    error = jnp.where(batch["mask"], batch["x"] @ params["kernel"] - batch["y"], 0.0)
    loss = jnp.square(error).sum() / batch["count"]
    return loss, ({"computed": jnp.float32(1)}, 2 * error)


def packed(kept, parts):
    """A batch whose rows `kept` come first in its micro-batches; the others are masked rubbish."""
    host = make(len(kept))
    rows = np.argsort(~kept, kind="stable")
    order = np.empty_like(rows)
    order[micro_batch_rows(len(kept), parts)] = rows
    host["x"][~kept] = 1e30
    return {
        "x": host["x"][order],
        "y": host["y"][order],
        "mask": kept[order],
        "count": np.float32(max(kept.sum(), 1)),
    }


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_unused_micro_batches_are_not_computed_and_nothing_is_compiled_anew(parts):
    mesh = sharding.make_mesh(sharding.MeshConfig())
    optimizer = optax.adam(0.1)
    update = make_update(counting, optimizer, learning_rate=RATE, micro_batches=parts)
    whole = make_update(counting, optimizer, learning_rate=RATE)

    def fresh():
        params = jax.device_put({"kernel": jnp.ones(3)}, sharding.replicated(mesh))
        return create_state(params, optimizer)

    for kept in ([1, 0, 0, 1, 0, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 0], [0] * 6):
        kept = np.array(kept, bool)
        used = -(-int(kept.sum()) // (6 // parts))
        batch = sharding.shard_rows(packed(kept, parts), mesh)
        state, metrics, outputs = update(fresh(), batch, used=jnp.int32(used))
        assert float(metrics["computed"]) == used
        if not used:
            np.testing.assert_array_equal(state.params["kernel"], np.ones(3))
            assert metrics["loss"] == 0 and metrics["grad_norm"] == 0 and int(state.step) == 1
            continue
        expected = whole(fresh(), sharding.shard_rows(packed(kept, 1), mesh))
        np.testing.assert_allclose(state.params["kernel"], expected[0].params["kernel"], rtol=1e-6)
        np.testing.assert_allclose(metrics["loss"], expected[1]["loss"], rtol=1e-6)
        found = np.asarray(outputs)[micro_batch_rows(6, parts)]
        np.testing.assert_allclose(found, expected[2], rtol=1e-5)
    assert update._cache_size() == 1


def test_an_empty_batch_stops_the_momentum_too():
    mesh = sharding.make_mesh(sharding.MeshConfig())
    optimizer = optax.adamw(0.1, weight_decay=0.1)
    update = make_update(counting, optimizer, learning_rate=RATE, micro_batches=2)
    params = jax.device_put({"kernel": jnp.ones(3)}, sharding.replicated(mesh))
    everything, nothing = np.ones(6, bool), np.zeros(6, bool)
    batches = [sharding.shard_rows(packed(kept, 2), mesh) for kept in (everything, nothing)]
    state = update(create_state(params, optimizer), batches[0], used=jnp.int32(2))[0]
    before = np.asarray(state.params["kernel"])
    state = update(state, batches[1], used=jnp.int32(0))[0]
    np.testing.assert_array_equal(state.params["kernel"], before)
    assert int(state.step) == 2


def test_all_micro_batches_used_is_the_same_to_the_bit():
    mesh = sharding.make_mesh(sharding.MeshConfig())
    optimizer = optax.adam(0.1)
    update = make_update(counting, optimizer, learning_rate=RATE, micro_batches=3)
    batch = sharding.shard_rows(packed(np.ones(6, bool), 3), mesh)

    def run(used):
        params = jax.device_put({"kernel": jnp.ones(3)}, sharding.replicated(mesh))
        return update(create_state(params, optimizer), batch, used=used)

    for left, right in zip(*map(jax.tree.leaves, (run(None), run(jnp.int32(3)))), strict=True):
        np.testing.assert_array_equal(left, right)


def test_gradient_against_numpy_and_step_count():
    mesh = sharding.make_mesh(sharding.MeshConfig())
    host, optimizer = make(5, seed=1), optax.sgd(0.5)
    params = jax.device_put({"kernel": jnp.zeros(3)}, sharding.replicated(mesh))
    update = make_update(objective, optimizer, learning_rate=RATE)
    batch = sharding.shard_rows(host, mesh)
    state, metrics, _ = update(create_state(params, optimizer), batch, advance=False)
    gradient = -2 * host["x"].T @ host["y"] / 5
    np.testing.assert_allclose(state.params["kernel"], -0.5 * gradient, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(gradient), rtol=1e-5)
    assert int(state.step) == 0
    assert int(update(state, batch)[0].step) == 1


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_frozen_parameters_stay_and_have_no_moments(micro_batches):
    """Training a part equals training all of a model in which the rest is constant."""
    mesh = sharding.make_mesh(sharding.MeshConfig())
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.1, weight_decay=0.3))
    batch = sharding.shard_rows(make(6), mesh)
    ones, rising = np.ones(3, np.float32), np.arange(3, dtype=np.float32)
    start = {"language": {"kernel": ones}, "visual": {"kernel": rising}}

    def both(params, batch):
        kernel = params["language"]["kernel"] * params["visual"]["kernel"]
        return objective({"kernel": kernel}, batch)

    def language_alone(params, batch):
        return both({**params, "visual": {"kernel": jnp.arange(3.0)}}, batch)

    def run(objective, params, trained):
        params = jax.device_put(params, sharding.replicated(mesh))
        update = make_update(
            objective,
            optimizer,
            learning_rate=RATE,
            micro_batches=micro_batches,
            trained=trained,
        )
        state = create_state(params, optimizer, trained=trained)
        for _ in range(3):
            state, metrics, _ = update(state, batch)
        return state, metrics["grad_norm"]

    part, norm = run(both, start, lambda path: path.startswith("language/"))
    alone, expected = run(language_alone, {"language": start["language"]}, None)
    np.testing.assert_array_equal(part.params["visual"]["kernel"], np.arange(3.0))
    np.testing.assert_allclose(
        part.params["language"]["kernel"], alone.params["language"]["kernel"], rtol=1e-6
    )
    np.testing.assert_allclose(norm, expected, rtol=1e-6)
    assert jax.tree.structure(part.opt_state) == jax.tree.structure(alone.opt_state)
