"""Contrastive losses against loops, and over 8 devices."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxqa import sharding
from jaxqa.objectives import contrastive


def draw(rows, width, seed):
    rng = np.random.default_rng(seed)
    pair = rng.standard_normal((2, rows, width))
    pair /= np.linalg.norm(pair, axis=-1, keepdims=True)
    return pair.astype(np.float32)


def scalar(value):
    return jnp.full((1,), value, jnp.float32)


def naive_symmetric(images, texts, scale):
    total, rows = 0.0, len(images)
    for a, b in ((images, texts), (texts, images)):
        for i in range(rows):
            logits = [scale * float(a[i] @ b[j]) for j in range(rows)]
            total += math.log(sum(math.exp(x - logits[i]) for x in logits)) / rows / 2
    return total


def naive_sigmoid(images, texts, scale, bias):
    total, rows = 0.0, len(images)
    for i in range(rows):
        for j in range(rows):
            logit = scale * float(images[i] @ texts[j]) + bias
            total += math.log1p(math.exp(-logit if i == j else logit))
    return total / rows


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_losses_equal_loops(rows, scale):
    images, texts = draw(rows, 5, seed=rows)
    log_scale = scalar(math.log(scale))
    args = (images.astype(np.float64), texts.astype(np.float64))
    loss, metrics = contrastive.symmetric_loss(
        *map(jnp.asarray, (images, texts)), log_scale=log_scale
    )
    assert float(loss) == pytest.approx(naive_symmetric(*args, scale), rel=1e-4, abs=1e-5)
    nearest = (args[0] @ args[1].T).argmax(1) == np.arange(rows)
    assert float(metrics["accuracy"]) == pytest.approx(nearest.mean())
    loss, _ = contrastive.sigmoid_loss(
        *map(jnp.asarray, (images, texts)), log_scale=log_scale, bias=scalar(-3.0)
    )
    assert float(loss) == pytest.approx(naive_sigmoid(*args, scale, -3.0), rel=1e-4, abs=1e-5)


def test_the_scale_stops_at_a_hundred():
    images, texts = map(jnp.asarray, draw(4, 3, seed=1))
    high = contrastive.similarities(images, texts, scalar(9.0))
    bound = contrastive.similarities(images, texts, scalar(math.log(100)))
    np.testing.assert_array_equal(high, bound)


@pytest.mark.parametrize("kind", ["symmetric", "sigmoid"])
def test_eight_devices_equal_one(kind):
    """Value and gradients; and no device ever holds all the logits."""
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=4))
    images, texts = draw(64, 12, seed=3)

    def loss(images, texts, log_scale, bias):
        if kind == "symmetric":
            return contrastive.symmetric_loss(images, texts, log_scale=log_scale)[0]
        return contrastive.sigmoid_loss(images, texts, log_scale=log_scale, bias=bias)[0]

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 2, 3)))
    rest = (scalar(2.5), scalar(-2.0))
    one = run(images, texts, *rest)
    rows = NamedSharding(mesh, P(("data", "fsdp")))
    spread = (jax.device_put(images, rows), jax.device_put(texts, rows), *rest)
    eight = run(*spread)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=1e-5, atol=1e-6)
    text = run.lower(*spread).compile().as_text()
    assert re.search(r"f32\[8,64\]|f32\[64,8\]", text)
    assert "f32[64,64]" not in text


def test_own_text_alone_is_best():
    """A gradient step on the images lowers the loss and raises the accuracy."""
    images, texts = map(jnp.asarray, draw(16, 8, seed=5))

    @jax.jit
    def step(x):
        def loss(x):
            unit = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
            return contrastive.symmetric_loss(unit, texts, log_scale=scalar(3.0))

        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(x)
        return x - 0.5 * grads, value, metrics["accuracy"]

    values = []
    for _ in range(60):
        images, value, accuracy = step(images)
        values.append(float(value))
    assert values[-1] < 0.2 * values[0]
    assert float(accuracy) == 1.0
