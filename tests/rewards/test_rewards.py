"""Each reward against published values (the goldens) or arithmetic done another way."""

import decimal
import math

import jax
import numpy as np
import pytest

from jaxqa.rewards.answers import Answers, Targets
from jaxqa.rewards.format import answer_format
from jaxqa.rewards.gaussian import gaussian
from jaxqa.rewards.parsing import parse_answers
from jaxqa.rewards.threshold import threshold

# Aes-R1's error reward, sigma 0.1, rounded to four decimals; three answers to each of three images.
AES_R1_SCORES = [[0.61, 0.7, 0.55], [0.8, 0.82, 0.79], [0.3, 0.45, 0.4]]
AES_R1_LABELS = [0.6, 0.8, 0.6]
AES_R1_REWARDS = [[0.995, 0.6065, 0.8825], [1.0, 0.9802, 0.995], [0.0111, 0.3247, 0.1353]]

# Q-Insight's score and format rewards against the label 3.0.
Q_INSIGHT = [
    ('<think>\nx\n</think>\n<answer>\n{"rating": 3.20}\n</answer>', 1.0, 1.0),
    ('<think>\nx\n</think>\n<answer>\n{"rating": 3.35}\n</answer>', 0.0, 1.0),
    ('<think>\nx\n</think>\n<answer>\n{"rating": 3.36}\n</answer>', 0.0, 1.0),
    ('<think>\nx\n</think>\n<answer>\n{"rating": -3.2}\n</answer>', 0.0, 1.0),
    ('<think>x</think><answer>{"rating": 3.2}</answer>', 1.0, 0.0),
    ('<think>\nx\n</think>\n<answer>\n{"rating": "3.2"}\n</answer>', 0.0, 1.0),
]


def _answers(scores, valid=None, format_ok=None) -> Answers:
    scores = np.asarray(scores, np.float32)
    yes = np.ones(scores.shape, bool)
    return Answers(
        score=scores,
        valid=yes if valid is None else np.asarray(valid),
        format_ok=yes if format_ok is None else np.asarray(format_ok),
        word_count=np.zeros(scores.shape, np.int32),
    )


def _targets(scores) -> Targets:
    scores = np.asarray(scores, np.float32)
    return Targets(score=scores, pool=np.zeros(scores.shape, np.int32))


def test_gaussian_equals_aes_r1():
    rewards = gaussian(_answers(AES_R1_SCORES), _targets(AES_R1_LABELS), sigma=0.1)
    np.testing.assert_allclose(rewards, AES_R1_REWARDS, atol=5.1e-5)


@pytest.mark.parametrize("sigma", [0.1, 0.8, 20.0])
def test_gaussian_equals_arithmetic_in_float64(sigma: float):
    rng = np.random.default_rng(0)
    labels = rng.uniform(1, 5, 9).astype(np.float32)
    scores = (labels[:, None] + rng.normal(0, 2 * sigma, (9, 5))).astype(np.float32)
    distance = scores.astype(np.float64) - labels[:, None]
    expected = np.exp(-(distance**2) / (2 * sigma**2))
    found = gaussian(_answers(scores), _targets(labels), sigma=sigma)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_threshold_and_format_equal_q_insight():
    answers = parse_answers([[text for text, _, _ in Q_INSIGHT]], layout="lines")
    scores = threshold(answers, _targets([3.0]), tolerance=0.35)
    formats = answer_format(answers, _targets([3.0]), score_required=False)
    np.testing.assert_array_equal(scores, [[score for _, score, _ in Q_INSIGHT]])
    np.testing.assert_array_equal(formats, [[fmt for _, _, fmt in Q_INSIGHT]])


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
    found = threshold(_answers(scores), _targets(scores[0]), tolerance=float(tolerance))
    np.testing.assert_array_equal(np.asarray(found) > 0, expected)


def test_threshold_of_labels_that_are_no_decimals():
    rng = np.random.default_rng(1)
    labels, scores = rng.uniform(1, 5, 400), np.round(rng.uniform(1, 5, (400, 6)), 2)
    distance = np.abs(scores - labels[:, None])
    clear = np.abs(distance - 0.35) > 1e-5
    found = np.asarray(threshold(_answers(scores), _targets(labels), tolerance=0.35))
    np.testing.assert_array_equal(found[clear] > 0, (distance < 0.35)[clear])


def test_an_answer_that_was_not_read_earns_nothing_even_where_zero_is_right():
    answers = _answers([[0.0, 0.0]], valid=[[True, False]])
    for reward in (
        gaussian(answers, _targets([0.0]), sigma=1.0),
        threshold(answers, _targets([0.0]), tolerance=0.5),
        answer_format(answers, _targets([0.0])),
    ):
        np.testing.assert_array_equal(reward, [[1.0, 0.0]])


def test_format_needs_layout_and_by_default_a_score():
    valid, format_ok = [[True, True, False, False]], [[True, False, True, False]]
    answers = _answers(np.zeros((1, 4)), valid, format_ok)
    np.testing.assert_array_equal(answer_format(answers, _targets([0.0])), [[1, 0, 0, 0]])
    layout_only = answer_format(answers, _targets([0.0]), score_required=False)
    np.testing.assert_array_equal(layout_only, [[1, 0, 1, 0]])


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_widths_must_be_positive(bad: float):
    with pytest.raises(ValueError, match="sigma"):
        gaussian(_answers([[1.0]]), _targets([1.0]), sigma=bad)
    with pytest.raises(ValueError, match="tolerance"):
        threshold(_answers([[1.0]]), _targets([1.0]), tolerance=bad)


def test_answers_pass_through_transformations_that_replace_their_leaves():
    answers = parse_answers([["<answer>3</answer>"]])
    shapes = jax.eval_shape(lambda a: a, answers)
    assert shapes.score.shape == (1, 1)
    assert jax.tree.map(lambda _: "sharding", answers).valid == "sharding"
