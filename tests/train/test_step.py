"""Micro-batches add up to the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxqa import sharding
from jaxqa.metrics import states
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
