"""Same numbers as Hugging Face's Qwen2.5-VL: features, layers, logits and every gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from qwen_fixtures import SMALL, TIED, TorchTwin, jit, make_prompt, perturb, relative_error

from jaxqa.models.qwen2_5_vl import layout
from jaxqa.models.qwen2_5_vl.inputs import stack_rows
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

BATCHES = (
    ("square", "wide"),
    ("ragged", "smaller than a window"),
    ("two images", "text only"),
    ("image last", "two images"),
)
LENGTH, WINDOWS = 64, 6  # one bucket, longer than any prompt: one compilation serves all batches


def build_pair(config):
    model = Qwen2_5_VL(config=config)
    params = perturb(model.abstract_params())
    return model, params, TorchTwin(config, params)


@pytest.fixture(scope="module")
def untied():
    return build_pair(SMALL)


@pytest.fixture(scope="module", params=["untied", "tied"])
def pair(request, untied):
    return untied if request.param == "untied" else build_pair(TIED)


@pytest.fixture(scope="module")
def gradient(pair):
    """Gradient of weighted logits, and the logits."""
    model = pair[0]

    @jit
    @functools.partial(jax.grad, has_aux=True)
    def weighted_logits(params, prompts, weights):
        hidden = model.prompt_hidden(params, prompts)
        logits = jnp.einsum("bsd,vd->bsv", hidden, model.head(params))
        return jnp.sum(logits * weights), logits

    return weighted_logits


def build_batch(names, config, seed):
    prompts = [make_prompt(name, config, seed) for name in names]
    rows = [layout.build_row(*prompt, config) for prompt in prompts]
    return prompts, stack_rows(rows, prompt_length=LENGTH, num_windows=WINDOWS)


@pytest.mark.parametrize("names", BATCHES, ids=" + ".join)
def test_logits_and_gradients_match(pair, gradient, names):
    model, params, twin = pair
    prompts, batch = build_batch(names, model.config, seed=1)
    inputs = twin.inputs(prompts)
    real = inputs["attention_mask"].numpy().astype(bool)
    length = real.shape[1]
    twin.model.zero_grad()
    expected = twin.model(**inputs).logits
    rng = np.random.default_rng(2)
    weights = rng.standard_normal(expected.shape).astype(np.float32) * real[..., None]
    (expected * torch.from_numpy(weights)).sum().backward()

    padded = np.pad(weights, ((0, 0), (0, LENGTH - length), (0, 0)))
    grads, logits = gradient(params, batch, padded)
    logits = np.asarray(logits)[:, :length]
    assert relative_error(logits[real], expected.detach().numpy()[real]) < 1e-4
    errors = twin.gradient_errors(grads)
    assert len(errors) == len(list(twin.model.parameters()))
    assert max(errors.values()) < 1e-3, errors
    assert (np.asarray(batch.next_position) == _first_completion_position(twin, inputs)).all()


@pytest.mark.parametrize("names", BATCHES, ids=" + ".join)
def test_every_layer_matches(untied, activations, names):
    model, params, twin = untied
    prompts, batch = build_batch(names, model.config, seed=4)
    inputs = twin.inputs(prompts)
    real = inputs["attention_mask"].numpy().astype(bool)
    with torch.no_grad():
        expected = twin.model(**inputs, output_hidden_states=True).hidden_states
    layers, final = activations(params, batch)
    layers = [np.asarray(layer)[:, : real.shape[1]] for layer in (*layers[:-1], final)]
    assert len(layers) == len(expected) == model.config.text.num_hidden_layers + 1
    for layer, hidden in zip(layers, expected, strict=True):
        assert relative_error(layer[real], hidden.numpy()[real]) < 1e-4


@pytest.fixture(scope="module")
def activations(untied):
    """The residual stream at every depth, and what the final norm makes of the last."""
    model = untied[0]
    return jit(lambda *args: (model.prompt_activations(*args), model.prompt_hidden(*args)))


def _first_completion_position(twin, inputs):
    lengths = inputs["attention_mask"].sum(-1)
    return (lengths + twin.model.model.rope_deltas[:, 0]).numpy()


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_vision_features_match_at_every_depth(untied, depth):
    """Cut both towers after `depth` blocks; odd depths end in a run without a full block."""
    model, params, twin = untied
    prompts, batch = build_batch(("ragged", "two images"), model.config, seed=3)
    inputs = twin.inputs(prompts)
    indexes = tuple(i for i in model.config.vision.fullatt_block_indexes if i < depth)
    vision = dataclasses.replace(model.config.vision, depth=depth, fullatt_block_indexes=indexes)
    cut = Qwen2_5_VL(config=dataclasses.replace(model.config, vision=vision))
    blocks = jax.tree.map(lambda leaf: leaf[:depth], params["visual"]["blocks"])
    cut_params = params | {"visual": params["visual"] | {"blocks": blocks}}
    tower = twin.model.model.visual
    whole = tower.blocks
    try:
        tower.blocks = whole[:depth]
        with torch.no_grad():
            expected = tower(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
    finally:
        tower.blocks = whole
    found = np.asarray(jit(cut.image_features)(cut_params, batch))
    placed = [found[row, index[index >= 0]] for row, index in enumerate(batch.vision_index)]
    assert relative_error(np.concatenate(placed), expected.numpy()) < 1e-4
