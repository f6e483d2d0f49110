"""Same numbers as Hugging Face's Qwen2.5-VL: features, layers, logits and every gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from qwen_fixtures import SMALL, TIED, TorchTwin, make_prompt, perturb, relative_error

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


@pytest.fixture(scope="module", params=[SMALL, TIED], ids=["untied", "tied"])
def pair(request):
    model = Qwen2_5_VL(config=request.param)
    params = perturb(model.abstract_params())
    return model, params, TorchTwin(request.param, params)


@pytest.fixture(scope="module")
def functions(pair):
    model, _, _ = pair

    def logits(params, prompts):
        hidden = model.prompt_hidden(params, prompts)
        return jnp.einsum("bsd,vd->bsv", hidden, model.head(params))

    def loss(params, prompts, weights):
        return jnp.sum(logits(params, prompts) * weights), logits(params, prompts)

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    return jax.jit(model.image_features), jax.jit(model.prompt_activations), gradient


def build_batch(names, config, seed):
    prompts = [make_prompt(name, config, seed) for name in names]
    rows = [layout.build_row(*prompt, config) for prompt in prompts]
    return prompts, stack_rows(rows, prompt_length=LENGTH, num_windows=WINDOWS)


@pytest.mark.parametrize("names", BATCHES, ids=" + ".join)
def test_matches_transformers(pair, functions, names):
    model, params, twin = pair
    image_features, activations, gradient = functions
    prompts, batch = build_batch(names, model.config, seed=1)
    inputs = twin.inputs(prompts)
    real = inputs["attention_mask"].numpy().astype(bool)
    length = real.shape[1]

    twin.model.zero_grad()
    twin.model.model.rope_deltas = None
    expected = twin.model(**inputs, output_hidden_states=True)
    rng = np.random.default_rng(2)
    weights = rng.standard_normal(expected.logits.shape).astype(np.float32) * real[..., None]
    (expected.logits * torch.from_numpy(weights)).sum().backward()

    with torch.no_grad():
        pixels = {"pixel_values": inputs["pixel_values"], "grid_thw": inputs["image_grid_thw"]}
        features = twin.model.model.visual(pixels["pixel_values"], pixels["grid_thw"]).pooler_output
    found = np.asarray(image_features(params, batch))
    placed = [found[row, index[index >= 0]] for row, index in enumerate(batch.vision_index)]
    assert relative_error(np.concatenate(placed), features.numpy()) < 1e-4

    layers = np.asarray(activations(params, batch))[:, :, :length]
    assert len(layers) == len(expected.hidden_states) == model.config.text.num_hidden_layers + 1
    # Hugging Face's last hidden state has passed the final norm; the logits cover it below.
    for layer, hidden in zip(layers[:-1], expected.hidden_states[:-1], strict=True):
        assert relative_error(layer[real], hidden.detach().numpy()[real]) < 1e-4

    padding = LENGTH - length
    padded = np.pad(weights, ((0, 0), (0, padding), (0, 0)))
    grads, logits = gradient(params, batch, padded)
    logits = np.asarray(logits)[:, :length]
    assert relative_error(logits[real], expected.logits.detach().numpy()[real]) < 1e-4
    errors = twin.gradient_errors(grads)
    assert len(errors) == len(list(twin.model.parameters()))
    assert max(errors.values()) < 1e-3, errors
    assert (np.asarray(batch.next_position) == _first_completion_position(twin, inputs)).all()


def _first_completion_position(twin, inputs):
    lengths = inputs["attention_mask"].sum(-1)
    return (lengths + twin.model.model.rope_deltas[:, 0]).numpy()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_vision_features_match_after_fewer_blocks(pair, depth):
    """Every block alone: cut both towers after `depth` blocks; 3 ends in an open run."""
    model, params, twin = pair
    if model.config.text.tie_word_embeddings:
        pytest.skip("the vision tower does not know about tied embeddings")
    prompts, batch = build_batch(("ragged", "two images"), model.config, seed=3)
    inputs = twin.inputs(prompts)
    vision = dataclasses.replace(
        model.config.vision, depth=depth, fullatt_block_indexes=(1,)[: depth - 1]
    )
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
    found = np.asarray(jax.jit(cut.image_features)(cut_params, batch))
    placed = [found[row, index[index >= 0]] for row, index in enumerate(batch.vision_index)]
    assert relative_error(np.concatenate(placed), expected.numpy()) < 1e-4
