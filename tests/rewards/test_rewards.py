"""Each reward of single answers against arithmetic done another way."""

import dataclasses
import decimal
import itertools
import math

import jax
import numpy as np
import pytest
from reward_arrays import make_answers, make_targets

from jaxqa.rewards.adaptive_gaussian import adaptive_gaussian
from jaxqa.rewards.answers import LAYOUTS
from jaxqa.rewards.format import answer_format
from jaxqa.rewards.gaussian import absolute_error, gaussian
from jaxqa.rewards.labelled import comparison, degradation
from jaxqa.rewards.labels import CHOICES, DISTORTION_CLASSES, SEVERITIES, TASKS
from jaxqa.rewards.parsing import parse_answers
from jaxqa.rewards.thinking_cost import thinking_cost
from jaxqa.rewards.threshold import threshold, two_step


@pytest.mark.parametrize("sigma", [0.1, 0.8, 20.0])
def test_gaussian_equals_arithmetic_in_float64(sigma: float):
    rng = np.random.default_rng(0)
    labels = rng.uniform(1, 5, 9).astype(np.float32)
    scores = (labels[:, None] + rng.normal(0, 2 * sigma, (9, 5))).astype(np.float32)
    distance = scores.astype(np.float64) - labels[:, None]
    expected = np.exp(-(distance**2) / (2 * sigma**2))
    found = gaussian(make_answers(scores), make_targets(labels), sigma=sigma)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("high", "step", "tolerance"),
    [(5, "0.01", "0.35"), (1, "0.001", "0.07"), (100, "0.25", "8.75")],
)
def test_threshold_treats_decimals_as_decimals(high: int, step: str, tolerance: str):
    exact = [decimal.Decimal(step) * i for i in range(int(high / float(step)) + 1)]
    grid = np.array([int(value / decimal.Decimal(step)) for value in exact])
    limit = int(decimal.Decimal(tolerance) / decimal.Decimal(step))
    expected = np.abs(grid[None, :] - grid[:, None]) < limit
    scores = np.broadcast_to(np.array([float(v) for v in exact]), expected.shape)
    found = threshold(make_answers(scores), make_targets(scores[0]), tolerance=float(tolerance))
    np.testing.assert_array_equal(np.asarray(found) > 0, expected)


def test_threshold_of_labels_that_are_no_decimals():
    rng = np.random.default_rng(1)
    labels, scores = rng.uniform(1, 5, 400), np.round(rng.uniform(1, 5, (400, 6)), 2)
    distance = np.abs(scores - labels[:, None])
    clear = np.abs(distance - 0.35) > 1e-5
    found = np.asarray(threshold(make_answers(scores), make_targets(labels), tolerance=0.35))
    np.testing.assert_array_equal(found[clear] > 0, (distance < 0.35)[clear])


def test_an_answer_that_was_not_read_earns_nothing_even_where_zero_is_right():
    answers = make_answers([[0.0, 0.0]], [[True, False]])
    for reward, options in (
        (gaussian, {"sigma": 1.0}),
        (absolute_error, {}),
        (adaptive_gaussian, {}),
        (threshold, {"tolerance": 0.5}),
        (two_step, {}),
        (answer_format, {}),
    ):
        found = reward(answers, make_targets([0.0]), **options)
        np.testing.assert_allclose(found, [[1.0, 0.0]], atol=2e-5)


@pytest.mark.parametrize("label", [math.nan, math.inf, -math.inf])
def test_without_a_label_nothing_is_earned(label: float):
    answers, targets = make_answers([[1.0, 3e38]]), make_targets([label])
    for reward, options in (
        (gaussian, {"sigma": 1.0}),
        (absolute_error, {}),
        (adaptive_gaussian, {}),
        (threshold, {"tolerance": 0.5}),
        (two_step, {}),
        (degradation, {}),
        (comparison, {}),
    ):
        np.testing.assert_array_equal(reward(answers, targets, **options), [[0.0, 0.0]])


def test_out_of_range_answers_keep_their_number():
    answers = make_answers([[5.4, 6.2, -3.0, 3e38, -3e38]])
    found = np.asarray(gaussian(answers, make_targets([5.0]), sigma=0.8))[0]
    np.testing.assert_allclose(found[:2], np.exp(-0.5 * np.square([0.5, 1.5])), rtol=1e-5)
    np.testing.assert_allclose(found[2:], 0, atol=1e-6)


def test_absolute_error_is_a_gaussian_with_a_floor():
    answers, targets = make_answers([[0.6, 0.7, 1.5], [0.2, 0.2, 0.2]]), make_targets([0.6, 0.3])
    expected = np.exp(-0.5 * np.square([[0, 1, 9], [1, 1, 1]])) + 0.01
    found = absolute_error(answers, targets, epsilon=0.01)
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_two_step_equals_its_definition():
    distances = np.array([0.0, 0.069, 0.07, 0.08, 0.099, 0.1, 0.2])
    answers = make_answers([0.5 + distances, 0.5 - distances])
    found = two_step(answers, make_targets([0.5, 0.5]))
    np.testing.assert_allclose(found, [[1, 1, 0.5, 0.5, 0.5, 0, 0]] * 2)
    found = two_step(answers, make_targets([0.5, 0.5]), inner=0.01, outer=0.15, partial=0.2)
    np.testing.assert_allclose(found, [[1, 0.2, 0.2, 0.2, 0.2, 0.2, 0]] * 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("label_range", "growth", "scale"), list(itertools.product((100, 4), (0, 2), (1, 1.5)))
)
def test_adaptive_gaussian_equals_arithmetic(label_range: float, growth: float, scale: float):
    rng = np.random.default_rng(0)
    labels = rng.uniform(0, label_range, 7)
    scores = rng.uniform(-label_range, 2 * label_range, (7, 5))
    error = 100 * np.abs(scores - labels[:, None]) / label_range
    width = 8.75 / math.sqrt(2 * math.log(2)) * (1 + growth * error / 100)
    expected = np.minimum(1, scale * np.exp(-(error**2) / (2 * width**2)))
    options = {"label_range": float(label_range), "growth": float(growth), "scale": float(scale)}
    found = adaptive_gaussian(make_answers(scores), make_targets(labels), **options)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_adaptive_gaussian_half_at_the_tolerance_and_nothing_at_infinity():
    answers = make_answers([[58.75, 3e38]])
    for label_range in (1e-3, 100.0):
        options = {"growth": 0.0, "label_range": label_range, "tolerance": 875 / label_range}
        found = adaptive_gaussian(answers, make_targets([50.0]), **options)
        np.testing.assert_allclose(found, [[0.5, 0.0]], atol=1e-5)
    far = adaptive_gaussian(answers, make_targets([50.0]), growth=2.0)
    assert 0 <= float(far[0, 1]) < 1e-8


def test_word_limits():
    answers = make_answers([[7.0] * 5], words=[[0, 64, 65, 66, 124]])
    targets = make_targets([7.0])
    at_most = adaptive_gaussian(answers, targets, max_words=65)
    at_least = adaptive_gaussian(answers, targets, min_words=65)
    np.testing.assert_array_equal(at_most, [[1, 1, 1, 0, 0]])
    np.testing.assert_array_equal(at_least, [[0, 0, 1, 1, 1]])


def test_thinking_cost_is_a_ramp():
    answers = make_answers([[7.0] * 6], [[1, 1, 1, 1, 1, 0]], words=[[0, 40, 50, 60, 900, 60]])
    found = thinking_cost(answers, make_targets([7.0]), words_free=40, words_max=60)
    np.testing.assert_allclose(found, [[0, 0, -0.5, -1, -1, -1]])


def test_degradation_counts_the_severity_where_the_class_is_right():
    classes, severities = np.indices((6, 7)).reshape(2, -1) - 1  # -1: none
    answers = make_answers(np.zeros((1, 42)), class_id=[classes], severity_id=[severities])
    blur, slight = DISTORTION_CLASSES.index("blur"), SEVERITIES.index("slight")
    absent = np.full(1, -1, np.int32)
    targets = dataclasses.replace(
        make_targets([np.nan]), class_id=absent + 1 + blur, severity_id=absent + 1 + slight
    )
    right = classes == blur
    expected = np.where(right & (severities == slight), 1.0, np.where(right, 0.25, 0.0))
    np.testing.assert_allclose(degradation(answers, targets), [expected])
    unlabelled = dataclasses.replace(targets, class_id=absent, severity_id=absent)
    assert not degradation(answers, unlabelled).any()
    weighed = degradation(answers, targets, class_weight=0.5, severity_weight=2.0)
    assert float(weighed.max()) == 2.5


def test_comparison_needs_the_choice():
    answers = make_answers(np.zeros((2, 4)), choice_id=[[-1, 0, 1, 2]] * 2)
    absent = np.full(2, -1, np.int32)
    targets = dataclasses.replace(
        make_targets([np.nan] * 2), choice_id=np.int32([CHOICES.index("Similar"), -1])
    )
    np.testing.assert_array_equal(comparison(answers, targets), [[0, 0, 0, 1], [0, 0, 0, 0]])
    assert not comparison(answers, dataclasses.replace(targets, choice_id=absent)).any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_format_needs_layout_and_by_default_an_answer(layout: str):
    answers = make_answers(np.zeros((1, 4)), [[True, True, False, False]])
    layouts = np.zeros((1, 4, len(LAYOUTS)), bool)
    layouts[0, :, LAYOUTS.index(layout)] = [True, False, True, False]
    answers, targets = dataclasses.replace(answers, layouts=layouts), make_targets([0.0])
    found = answer_format(answers, targets, layout=layout)
    np.testing.assert_array_equal(found, [[1, 0, 0, 0]])
    found = answer_format(answers, targets, layout=layout, answer_required=False)
    np.testing.assert_array_equal(found, [[1, 0, 1, 0]])
    other = LAYOUTS[LAYOUTS.index(layout) - 1]
    assert not answer_format(answers, targets, layout=other, answer_required=False).any()
    np.testing.assert_array_equal(answer_format(answers, targets, layout="any"), [[1, 1, 0, 0]])
    with pytest.raises(ValueError, match="answer_required"):
        answer_format(answers, targets, layout="any", answer_required=False)


def test_each_task_has_its_kind_of_answer():
    texts = ["3.5", '{"distortion_class": "blur", "severity": "slight"}', "Image A"]
    texts += ['{"distortion_class": "blur"}']
    group = [f"<think>x</think><answer>{text}</answer>" for text in texts]
    tasks = np.arange(len(TASKS), dtype=np.int32)
    answers = parse_answers([group] * len(TASKS))
    found = answer_format(answers, make_targets(np.zeros(len(TASKS)), task=tasks))
    score, named, choice = [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]
    np.testing.assert_array_equal(found, [score, score, score, named, choice])


IMPOSSIBLE = [
    *((gaussian, "sigma", {"sigma": bad}) for bad in (0.0, -1.0, math.nan, math.inf)),
    *((threshold, "tolerance", {"tolerance": bad}) for bad in (0.0, -1.0, math.nan, math.inf)),
    (absolute_error, "epsilon", {"epsilon": -1e-5}),
    (two_step, "inner", {"inner": 0.2}),
    (two_step, "partial", {"partial": 1.5}),
    *((adaptive_gaussian, name, {name: 0.0}) for name in ("tolerance", "label_range", "scale")),
    (adaptive_gaussian, "growth", {"growth": math.nan}),
    (adaptive_gaussian, "min_words", {"min_words": -1}),
    (adaptive_gaussian, "min_words", {"min_words": 5, "max_words": 4}),
    (degradation, "severity_weight", {"severity_weight": -0.1}),
    (thinking_cost, "words_free", {"words_free": 5, "words_max": 5}),
    (thinking_cost, "words_free", {"words_free": -5, "words_max": 5}),
]


@pytest.mark.parametrize(("reward", "name", "options"), IMPOSSIBLE)
def test_impossible_options_are_refused(reward, name: str, options: dict):
    with pytest.raises(ValueError, match=f"{name} is .*expected"):
        reward(make_answers([[1.0]]), make_targets([1.0]), **options)


def test_answers_pass_through_transformations_that_replace_their_leaves():
    answers = parse_answers([["<answer>3</answer>"]])
    shapes = jax.eval_shape(lambda a: a, answers)
    assert shapes.score.shape == (1, 1)
    assert jax.tree.map(lambda _: "sharding", answers).valid == "sharding"
