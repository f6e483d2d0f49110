"""Contrastive alignment: batches, the objective on one and on eight devices, learning."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distill_fixtures import CLIP, SIGLIP, draw_params, jit, make_triplets

from jaxqa import sharding
from jaxqa.distill.alignment import (
    AlignmentBatch,
    AlignmentConfig,
    AlignmentObjective,
    AlignmentSource,
    aligned_params,
)
from jaxqa.distill.pixels import ImagePool, prepare
from jaxqa.errors import UserError
from jaxqa.models.clip.model import Clip

TRIPLETS = make_triplets(22, rationales=3)


def one_device():
    return sharding.make_mesh(sharding.MeshConfig())


def make_texts(triplets, width, count=3):
    """Embeddings that follow the score, one per rationale."""
    made = []
    for triplet in triplets:
        rng = np.random.default_rng(int(triplet.score))
        base, drift = rng.standard_normal((2, width))
        own = np.random.default_rng(triplet.example_id).standard_normal((count, width))
        texts = base + 0.3 * triplet.score * drift + 0.2 * own
        made.append((texts / np.linalg.norm(texts, axis=1, keepdims=True)).astype(np.float32))
    return made


def make_source(triplets=TRIPLETS, *, mesh=None, batch_size=8, seed=3, cache_mb=0, texts=None):
    return AlignmentSource(
        triplets,
        make_texts(triplets, 20) if texts is None else texts,
        pool=ImagePool(CLIP, workers=2),
        mesh=mesh or one_device(),
        batch_size=batch_size,
        seed=seed,
        cache_mb=cache_mb,
    )


def test_batches_hold_each_image_once_an_epoch_with_its_own_texts():
    source, texts = make_source(), make_texts(TRIPLETS, 20)
    draws = {}
    for epoch in range(6):
        seen = []
        for _ in range(2):
            rows, chosen = source.plan(source.get_state()["next_batch"])
            batch, _ = source.next({}, 0)
            for k, (row, text) in enumerate(zip(rows, chosen, strict=True)):
                expected = prepare(TRIPLETS[row].image, CLIP)
                np.testing.assert_array_equal(np.asarray(batch.pixels)[k], expected)
                np.testing.assert_array_equal(np.asarray(batch.texts)[k], texts[row][text])
                draws.setdefault(int(row), []).append((epoch, int(text)))
            seen += rows.tolist()
        assert len(set(seen)) == 16
    assert any(len({text for _, text in pairs}) > 1 for pairs in draws.values())
    source.close()


@pytest.mark.parametrize("cache_mb", [0, 1])
def test_a_resumed_source_goes_on_with_the_same_batches(cache_mb):
    source = make_source(cache_mb=cache_mb)
    for _ in range(3):
        source.next({}, 0)
    state = json.loads(json.dumps(source.get_state()))
    expected = source.next({}, 0)[0]
    other = make_source(cache_mb=cache_mb)
    other.set_state(state)
    found = other.next({}, 0)[0]
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    np.testing.assert_array_equal(found.texts, expected.texts)
    changed = make_source(seed=4)
    with pytest.raises(UserError, match="other images, rationales or another seed"):
        changed.set_state(state)


def test_seeds_change_order_and_draws():
    assert any(
        (make_source(seed=0).plan(n)[0] != make_source(seed=1).plan(n)[0]).any() for n in range(2)
    )


def test_a_draw_depends_on_the_image_and_the_epoch_only():
    whole, half = make_source(), make_source(TRIPLETS[:11], batch_size=4)
    drawn = {}
    for source, batches in ((whole, 2), (half, 2)):
        for number in range(batches):
            for row, text in zip(*source.plan(number), strict=True):
                drawn.setdefault(int(row), set()).add(int(text))
    assert all(len(texts) == 1 for texts in drawn.values())


def test_too_few_images_and_odd_batches_are_refused():
    with pytest.raises(UserError, match="expected at least one full batch"):
        make_source(batch_size=23)
    mesh = sharding.make_mesh(sharding.MeshConfig(data=8))
    with pytest.raises(UserError, match="batch_size is 12; expected a multiple of the 8"):
        make_source(mesh=mesh, batch_size=12)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_rationales": -1}, "max_rationales is -1"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
    ],
)
def test_bad_configs_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        AlignmentConfig(**values)


def test_fewer_rationales_on_request():
    assert AlignmentConfig(max_rationales=1).rationales(TRIPLETS[0]) == TRIPLETS[0].rationales[:1]
    assert AlignmentConfig().rationales(TRIPLETS[0]) == TRIPLETS[0].rationales


def gradient(config, options, *, mesh):
    """Loss, metrics and gradients of a fixed batch."""
    model = Clip(config=config)
    params = aligned_params(draw_params(config), options)
    params = jax.device_put(params, sharding.tree_shardings(params, sharding.CLIP_RULES, mesh))
    objective = AlignmentObjective(model=model, config=options)
    pixels = np.stack([prepare(t.image, CLIP) for t in TRIPLETS[:16]])
    texts = np.stack([t[0] for t in make_texts(TRIPLETS[:16], config.projection_dim)])
    arrays = sharding.shard_rows({"pixels": pixels, "texts": texts}, mesh)
    run = jit(jax.value_and_grad(objective, has_aux=True))
    (loss, (metrics, _)), grads = run(params, AlignmentBatch(**arrays))
    return float(loss), metrics, jax.device_get(grads), params


@pytest.mark.parametrize(
    "config",
    [pytest.param(CLIP, id="clip"), pytest.param(SIGLIP, id="siglip", marks=pytest.mark.slow)],
)
def test_eight_devices_learn_as_one(config):
    options = AlignmentConfig(temperature=0.2)
    one, metrics, one_grads, params = gradient(config, options, mesh=one_device())
    assert float(metrics["temperature"]) == pytest.approx(0.2)
    assert abs(one_grads["logit_scale"][0]) > 1e-4
    assert one_grads.keys() == params.keys()
    mesh = sharding.make_mesh(sharding.MeshConfig(data=8))
    eight, _, eight_grads, _ = gradient(config, options, mesh=mesh)
    assert eight == pytest.approx(one, rel=1e-5)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(one_grads))
    for a, b in zip(jax.tree.leaves(one_grads), jax.tree.leaves(eight_grads), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5 * largest)


def test_a_fixed_temperature_has_no_gradient():
    options = AlignmentConfig(temperature=0.5, learn_temperature=False)
    _, metrics, grads, params = gradient(CLIP, options, mesh=one_device())
    assert float(metrics["temperature"]) == pytest.approx(0.5)
    assert params["logit_scale"][0] == np.float32(-math.log(0.5))
    assert grads["logit_scale"][0] == 0
    assert np.abs(grads["visual_projection"]["kernel"]).max() > 0


def test_the_checkpoints_temperature_is_the_default():
    params = draw_params(SIGLIP)
    trained = aligned_params(params, AlignmentConfig())
    np.testing.assert_array_equal(trained["logit_scale"], params["logit_scale"])
    np.testing.assert_array_equal(trained["logit_bias"], params["logit_bias"])
    assert "text_model" not in trained
    assert jnp.asarray(trained["logit_scale"]).shape == (1,)
