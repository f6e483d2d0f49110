"""Schedules, clipping and decay against hand computation."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxqa import tree
from jaxqa.models.qwen2_5_vl import hf_export, weights
from jaxqa.models.qwen2_5_vl.config import PRESETS
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.train.optimizer import (
    OptimizerConfig,
    clip_by_global_norm,
    global_norm,
    learning_rate_schedule,
    make_optimizer,
)


def rates(config, steps):
    schedule = learning_rate_schedule(config, steps)
    return [float(schedule(step)) for step in range(steps + 1)]


def test_linear_schedule_with_warm_up():
    config = OptimizerConfig(learning_rate=1.0, warmup_fraction=0.2, end_fraction=0.5)
    expected = [0.0, 0.5, *np.linspace(1.0, 0.5, 9)]
    np.testing.assert_allclose(rates(config, 10), expected, rtol=1e-6)


def test_cosine_and_constant_schedules():
    cosine = rates(OptimizerConfig(learning_rate=2.0, schedule="cosine", end_fraction=0.1), 8)
    angle = np.pi * np.arange(9) / 8
    np.testing.assert_allclose(cosine, 2.0 * (0.1 + 0.9 * 0.5 * (1 + np.cos(angle))), rtol=1e-6)
    constant = rates(OptimizerConfig(learning_rate=2.0, schedule="constant"), 3)
    np.testing.assert_allclose(constant, 2.0)


@pytest.fixture
def standard_promotion():
    """Optax raises floats to int32 counts, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.usefixtures("standard_promotion")
def test_the_first_adam_step_is_the_learning_rate_and_only_matrices_decay():
    config = OptimizerConfig(
        learning_rate=0.1, schedule="constant", weight_decay=0.5, clip_norm=0.0
    )
    params = {
        "layer": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full((2,), 2.0)},
        "lm_head": {"weight": jnp.full((2, 2), 2.0)},
        "norm": {"weight": jnp.full((2,), 2.0)},
    }
    grads = {
        "layer": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full((2,), -3.0)},
        "lm_head": {"weight": jnp.full((2, 2), -3.0)},
        "norm": {"weight": jnp.full((2,), 3.0)},
    }
    optimizer = make_optimizer(config, 10)
    steps, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(steps["layer"]["kernel"], -0.1 - 0.1 * 0.5 * 2.0, rtol=1e-5)
    np.testing.assert_allclose(steps["layer"]["bias"], 0.1, rtol=1e-5)
    np.testing.assert_allclose(steps["lm_head"]["weight"], 0.1 - 0.1 * 0.5 * 2.0, atol=1e-6)
    np.testing.assert_allclose(steps["norm"]["weight"], -0.1, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.usefixtures("standard_promotion")
def test_what_decays_is_what_decays_in_the_trainer_of_transformers():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    untied = replace(PRESETS["tiny"].text, tie_word_embeddings=False)
    architecture = replace(PRESETS["tiny"], text=untied)
    settings = hf_export.model_config(architecture, dtype="float32")
    with torch.device("meta"):
        model = transformers.Qwen2_5_VLForConditionalGeneration(
            transformers.Qwen2_5_VLConfig(**settings)
        )
    theirs = set(transformers.Trainer.get_decay_parameter_names(None, model))
    # Its patterns of names miss three norms of the vision tower; they are meant to be left out.
    theirs -= {name for name in theirs if re.search(r"\.(norm[12]|ln_q)\.", name)}
    rows = {row.stored: row.path for row in weights.ROWS}
    expected = {rows[_hub_name(name)] for name in theirs}

    config = OptimizerConfig(learning_rate=1.0, schedule="constant", weight_decay=0.5)
    params = jax.tree.map(
        lambda leaf: jnp.ones(leaf.shape), Qwen2_5_VL(config=architecture).abstract_params()
    )
    optimizer = make_optimizer(config, 1)
    still = jax.tree.map(jnp.zeros_like, params)
    steps, _ = optimizer.update(still, optimizer.init(params), params)
    moved = {path for path, step in tree.flatten(steps).items() if np.any(step != 0)}
    assert moved == expected
    assert "lm_head/weight" in moved


def _hub_name(name):
    for nested, plain in weights.NESTED_PREFIXES:
        if name.startswith(nested):
            name = plain + name.removeprefix(nested)
    return re.sub(r"\.(layers|blocks)\.\d+\.", r".\1.{}.", name)


@pytest.mark.usefixtures("standard_promotion")
def test_clipping_scales_the_whole_gradient():
    config = OptimizerConfig(
        learning_rate=1.0, schedule="constant", clip_norm=1.0, epsilon=1e3, beta1=0.0, beta2=0.0
    )
    params = {"a": {"kernel": jnp.zeros((2,))}}
    optimizer = make_optimizer(config, 1)
    steps, _ = optimizer.update(
        {"a": {"kernel": jnp.array([30.0, 40.0])}}, optimizer.init(params), params
    )
    # A large epsilon makes Adam's step proportional to the (clipped) gradient.
    clipped = np.array([0.6, 0.8])
    np.testing.assert_allclose(steps["a"]["kernel"], -clipped / (clipped + 1e3), rtol=1e-4)
    assert float(optax.tree.norm(steps)) < 1.1e-3


@pytest.mark.parametrize(
    "bad",
    [
        {"learning_rate": 0.0},
        {"warmup_fraction": 1.0},
        {"end_fraction": 2.0},
        {"beta1": 1.0},
        {"epsilon": 0.0},
        {"clip_norm": -1.0},
    ],
)
def test_impossible_options_are_refused(bad):
    with pytest.raises(ValueError, match="must"):
        OptimizerConfig(**bad)


def test_norm_and_clip_equal_optax():
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 5, 7), "b": (11,), "c": (2, 1)}
    tree = {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()
    }
    truth = np.sqrt(sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in tree.values()))
    np.testing.assert_allclose(global_norm(tree), truth, rtol=1e-6)
    for max_norm in (0.5 * truth, 2.0 * truth):
        ours, theirs = (
            clip(max_norm).update(tree, optax.EmptyState())[0]
            for clip in (clip_by_global_norm, optax.clip_by_global_norm)
        )
        for name in tree:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6)
