"""The score basis: its formula, its start, its fit and its output mapping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distill_fixtures import SCORES

from jaxqa.distill.basis import (
    BasisConfig,
    OutputMapping,
    fit_basis,
    start_params,
    weighted_sums,
)
from jaxqa.distill.kmeans import ClusterConfig, cluster
from jaxqa.distill.pca import fit_pca
from jaxqa.errors import UserError
from jaxqa.metrics import correlations


def draw(count, width=10, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.uniform(1, 5, count)
    angle = (labels - 3)[:, None] * np.array([0.4, 0.2])
    x = 0.3 * rng.standard_normal((count, width)) + 0.8
    x[:, :2] += np.sin(angle) * 2
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


def prepare(x, labels, centroids=12, centre=False):
    pca = fit_pca([x], dimensions=6, centre=centre)
    clusters = cluster(
        pca.project(x),
        labels,
        score_range=SCORES,
        config=ClusterConfig(buckets=8, centroids=centroids),
        seed=0,
    )
    return start_params(pca, clusters), pca, clusters


def naive(params, embedding, temperature):
    projected = (embedding - params["mean"]) @ params["components"]
    cosines = [
        float(projected @ v / np.linalg.norm(projected) / np.linalg.norm(v))
        for v in params["vectors"]
    ]
    weights = np.exp(np.array(cosines) / temperature)
    return float(weights @ params["scores"] / weights.sum())


def fit(params, x, labels, **options):
    return fit_basis(params, x, labels, score_range=SCORES, config=BasisConfig(**options))


@pytest.mark.parametrize("temperature", [1.0, 0.05])
@pytest.mark.parametrize("centre", [False, True])
def test_sums_equal_a_loop(temperature, centre):
    x, labels = draw(60)
    params, _, _ = prepare(x, labels, centre=centre)
    found = weighted_sums(params, jnp.asarray(x), temperature=temperature)
    exact = {name: leaf.astype(np.float64) for name, leaf in params.items()}
    expected = [naive(exact, row.astype(np.float64), temperature) for row in x]
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_weights_differ_by_at_most_e_squared_at_temperature_one():
    x, labels = draw(60)
    params, _, _ = prepare(x, labels)
    sums = np.asarray(weighted_sums(params, jnp.asarray(x), temperature=1.0))
    assert np.ptp(sums) < 0.5 * np.ptp(labels)


@pytest.mark.parametrize("calibrate", [False, True])
def test_without_fitting_the_basis_is_the_clustering_exactly(calibrate):
    x, labels = draw(60)
    params, pca, clusters = prepare(x, labels)
    basis, losses = fit(params, x, labels, fit=False, calibrate=calibrate)
    assert not len(losses)
    np.testing.assert_array_equal(basis.params["components"], pca.components)
    np.testing.assert_array_equal(basis.params["mean"], pca.mean)
    np.testing.assert_array_equal(basis.params["vectors"], clusters.centroids)
    np.testing.assert_array_equal(basis.params["scores"], clusters.scores)


def test_the_first_loss_is_that_of_the_clustering():
    x, labels = draw(60)
    params, _, _ = prepare(x, labels)
    _, losses = fit(params, x, labels, steps=1)
    sums = np.asarray(weighted_sums(params, jnp.asarray(x), temperature=1.0))
    assert losses[0] == pytest.approx(np.square(sums - labels).mean(), rel=1e-5)


@pytest.mark.parametrize("loss", ["squared", "absolute"])
def test_fitting_lowers_the_error_and_leaves_the_projection(loss):
    x, labels = draw(60)
    params, _, _ = prepare(x, labels)
    basis, losses = fit(params, x, labels, loss=loss, steps=400, learning_rate=0.1)
    assert losses[-1] < 0.4 * losses[0]
    answers = np.asarray(basis(jnp.asarray(x)))
    assert correlations.plcc(answers, labels) > 0.85
    np.testing.assert_array_equal(basis.params["components"], params["components"])
    assert not np.array_equal(basis.params["vectors"], params["vectors"])
    fitted = np.asarray(basis.params["scores"])
    assert fitted.min() < 1 or fitted.max() > 5  # the scores leave the range, the answers do not
    assert answers.min() >= 1 and answers.max() <= 5


def test_the_projection_is_fitted_on_request():
    x, labels = draw(60)
    params, _, _ = prepare(x, labels)
    fixed, fixed_losses = fit(params, x, labels, steps=100)
    basis, losses = fit(params, x, labels, steps=100, fit_projection=True)
    assert not np.array_equal(basis.params["components"], params["components"])
    assert losses[-1] < fixed_losses[-1]
    np.testing.assert_array_equal(basis.params["mean"], fixed.params["mean"])


def test_small_batches_are_deterministic_by_seed():
    x, labels = draw(60)
    params, _, _ = prepare(x, labels)
    config = BasisConfig(steps=30, batch_size=16)
    runs = [
        fit_basis(params, x, labels, score_range=SCORES, config=config, seed=seed)[1]
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert runs[0][-1] < runs[0][0]


def test_the_calibrated_line_is_the_least_squares_one():
    x, labels = draw(60)
    params, _, _ = prepare(x, labels)
    basis, _ = fit(params, x, labels, fit=False, calibrate=True, clip=False)
    sums = np.asarray(weighted_sums(params, jnp.asarray(x), temperature=1.0), np.float64)
    slope, intercept = np.polyfit(sums, labels, 1)
    assert basis.mapping.slope == pytest.approx(slope, rel=1e-4)
    assert basis.mapping.intercept == pytest.approx(intercept, rel=1e-4)
    plain, _ = fit(params, x, labels, fit=False)
    answers = [np.asarray(b(jnp.asarray(x))) for b in (basis, plain)]
    assert correlations.mae(answers[0], labels) < correlations.mae(answers[1], labels)
    assert correlations.srcc(answers[0], labels) == pytest.approx(
        correlations.srcc(answers[1], labels), abs=1e-3
    )


def test_the_mapping_clips_only_if_told():
    sums = jnp.asarray([-9.0, 2.0, 9.0])
    mapping = OutputMapping(low=1.0, high=5.0, slope=2.0, intercept=-1.0)
    np.testing.assert_allclose(mapping(sums), [1, 3, 5])
    assert not mapping(sums)[0] < 1
    open_ended = OutputMapping(low=1.0, high=5.0, slope=2.0, intercept=-1.0, clip=False)
    np.testing.assert_allclose(open_ended(sums), [-19, 3, 17])


def test_a_diverging_fit_is_refused():
    x, labels = draw(60)
    params, _, _ = prepare(x, labels)
    params = params | {"scores": np.full_like(params["scores"], np.inf)}
    with pytest.raises(UserError, match="loss was .* at step 0"):
        fit(params, x, labels, steps=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"steps": 0}, "steps=0"),
        ({"batch_size": -1}, "batch_size=-1"),
    ],
)
def test_bad_configs_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        BasisConfig(**values)


def test_the_sum_has_a_gradient_everywhere():
    x, labels = draw(60)
    params, _, _ = prepare(x, labels)
    grads = jax.jit(jax.grad(lambda e: weighted_sums(params, e, temperature=1.0).sum()))(x)
    assert np.isfinite(grads).all() and np.abs(grads).max() > 0
