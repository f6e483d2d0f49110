"""Same numbers as Hugging Face's CLIP and SigLIP: layers, embeddings, logits, every gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clip_fixtures import (
    CLIP,
    LEGACY,
    SIGLIP,
    TorchTwin,
    draw_inputs,
    draw_params,
    hf_class,
    jit,
    pixel_values,
    relative_error,
)

from jaxqa import sharding
from jaxqa.models.clip import hf_config
from jaxqa.models.clip.config import PRESETS, ClipConfig
from jaxqa.models.clip.model import Clip, unit

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


@pytest.fixture(scope="module", params=[CLIP, SIGLIP], ids=["clip", "siglip"])
def pair(request):
    config = request.param
    params = draw_params(config)
    return Clip(config=config), params, TorchTwin(config, params)


@pytest.fixture(scope="module")
def everything(pair):
    """One compiled function: gradient, logits, embeddings and layers."""
    model = pair[0]

    def weighted(params, pixels, token_ids, weights):
        images = model.image_embeddings(params, pixels)
        texts = model.text_embeddings(params, token_ids)
        logits = model.logits(params, images, texts)
        return jnp.sum(logits * weights), (images, texts, logits)

    def run(params, pixels, token_ids, weights):
        grads, outputs = jax.grad(weighted, has_aux=True)(params, pixels, token_ids, weights)
        layers = (
            model.image_activations(params, pixels),
            model.text_activations(params, token_ids),
        )
        return grads, *outputs, *layers

    return jit(run)


@pytest.mark.parametrize("seed", [1, 2])
def test_everything_matches(pair, everything, seed):
    model, params, twin = pair
    pixels, ids = draw_inputs(model.config, seed=seed)
    weights = np.random.default_rng(seed).standard_normal((3, 3)).astype(np.float32)
    found = jax.device_get(everything(params, pixels, ids, weights))
    grads, images, texts, logits, image_layers, text_layers = found

    twin.model.zero_grad()
    values = {"pixel_values": pixel_values(pixels, model.config)}
    tokens = {"input_ids": torch.from_numpy(ids).long()}
    expected = twin.model(**values, **tokens)
    (expected.logits_per_image * torch.from_numpy(weights)).sum().backward()
    assert relative_error(logits, expected.logits_per_image.detach()) < 1e-4
    errors = twin.gradient_errors(grads)
    # A key's bias shifts all scores of a query alike: its gradient is rounding on both sides.
    exact_zero = [name for name in errors if name.endswith("k_proj.bias")]
    assert max(error for name, error in errors.items() if name not in exact_zero) < 1e-3
    largest = max(float(p.grad.abs().max()) for p in twin.parameters.values())
    for name in exact_zero:
        assert float(twin.parameters[name].grad.abs().max()) < 1e-5 * largest, name

    with torch.no_grad():
        image_out = twin.model.get_image_features(**values)
        text_out = twin.model.get_text_features(**tokens)
        vision = twin.model.vision_model(**values, output_hidden_states=True)
        text = twin.model.text_model(**tokens, output_hidden_states=True)
    assert relative_error(images, image_out.pooler_output) < 1e-4
    assert relative_error(texts, text_out.pooler_output) < 1e-4
    for layers, output in ((image_layers, vision), (text_layers, text)):
        assert len(layers) == len(output.hidden_states)
        for layer, hidden in zip(layers, output.hidden_states, strict=True):
            assert relative_error(layer, hidden) < 1e-4


def test_the_legacy_end_of_text_is_the_largest_id():
    params = draw_params(LEGACY)
    _, ids = draw_inputs(LEGACY)
    found = jit(Clip(config=LEGACY).text_embeddings)(params, ids)
    with torch.no_grad():
        tokens = {"input_ids": torch.from_numpy(ids).long()}
        expected = TorchTwin(LEGACY, params).model.get_text_features(**tokens).pooler_output
    assert relative_error(found, expected) < 1e-4


def test_an_image_tower_alone_takes_whole_and_float_pixels():
    params = draw_params(CLIP)
    pixels, _ = draw_inputs(CLIP)
    alone = Clip(config=CLIP.image_only())
    tower = {key: params[key] for key in alone.abstract_params()}
    assert tower.keys() == {"vision_model", "visual_projection"}
    run = jit(alone.image_embeddings)
    found = run(tower, pixels)
    np.testing.assert_array_equal(run(tower, pixels.astype(np.float32)), found)
    with torch.no_grad():
        values = pixel_values(pixels, CLIP)
        expected = TorchTwin(alone.config, tower).model(values).image_embeds
    assert relative_error(found, expected) < 1e-4
    with pytest.raises(ValueError, match="image tower only"):
        jax.eval_shape(alone.text_embeddings, params, jnp.zeros((1, 9), jnp.int32))


def test_bfloat16_stays_close():
    params = draw_params(CLIP)
    pixels, _ = draw_inputs(CLIP)
    rough = jit(Clip(config=CLIP, compute_dtype="bfloat16").image_embeddings)(params, pixels)
    with torch.no_grad():
        values = pixel_values(pixels, CLIP)
        exact = TorchTwin(CLIP, params).model.get_image_features(values).pooler_output
    assert rough.dtype == jnp.float32
    assert 1e-5 < relative_error(rough, exact) < 0.1


def test_wrong_image_size_is_refused():
    pixels = jnp.zeros((1, 20, 20, 3), jnp.uint8)
    with pytest.raises(ValueError, match="expected 22 x 22"):
        Clip(config=CLIP).image_embeddings(draw_params(CLIP), pixels)


def test_unit_of_zero_is_zero_with_a_finite_gradient():
    zero = jnp.zeros((2, 3), jnp.float32)
    assert not unit(zero).any()
    assert np.isfinite(jax.jit(jax.grad(lambda x: unit(x).sum()))(zero)).all()


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_have_hugging_faces_parameters(name):
    config = PRESETS[name]
    with torch.device("meta"):
        values = hf_config.model_config(config, dtype="float32")
        for key in ("architectures", "model_type", "torch_dtype"):
            values.pop(key)
        config_class, model_class = hf_class(config)
        twin_size = sum(p.numel() for p in model_class(config_class(**values)).parameters())
    abstract = Clip(config=config).abstract_params()
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract)) == twin_size
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    sharding.tree_shardings(abstract, sharding.CLIP_RULES, mesh)  # every leaf has a row


def test_released_sizes():
    def count(config: ClipConfig) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(Clip(config=config).abstract_params()))

    # Model cards on the Hub: 151.3 M and 427.9 M; the image tower of L/14-336 alone 304 M.
    assert count(PRESETS["vit-b-32"]) == 151_277_313
    assert count(PRESETS["vit-l-14-336"]) == 427_944_193
    assert count(PRESETS["vit-l-14-336"].image_only()) == 304_293_888


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "blip"}, "clip or siglip"),
        ({"projection_dim": 0}, "projection_dim is 0"),
        ({"family": "siglip"}, "must equal vision.hidden_size"),
    ],
)
def test_bad_configs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CLIP, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 25}, "multiple of num_attention_heads"),
        ({"patch_size": 23}, "at least patch_size"),
        ({"hidden_act": "relu"}, "quick_gelu"),
        ({"num_hidden_layers": 0}, "must be positive"),
        ({"image_std": (0.0, 1.0, 1.0)}, "image_std"),
    ],
)
def test_bad_tower_configs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CLIP.vision, **change)
