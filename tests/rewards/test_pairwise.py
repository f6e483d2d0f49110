"""The pairwise core against plain Python loops, and at its edges."""

import itertools

import jax
import numpy as np
import plain_loops
import pytest
from reward_arrays import make_answers, make_targets, random_rollout

from jaxqa.rewards import ranking
from jaxqa.rewards.answers import Answers, Targets
from jaxqa.rewards.pairwise import PairwiseRule, pairwise

RANKINGS = {
    "thurstone_fidelity": (ranking.thurstone_fidelity, {}),
    "frank": (ranking.frank, {"tie": 1.0, "gain_epsilon": 0.0}),
    "completion_ranking": (
        ranking.completion_ranking,
        {
            "link": "logistic",
            "variance": "population",
            "temperature": 0.08,
            "distance": 0.12,
            "gain": "cross_entropy",
            "unit": 100.0,
        },
    ),
}


def by_loops(answers: Answers, targets: Targets, **options) -> np.ndarray:
    places = list(zip(targets.pool.tolist(), targets.task.tolist(), strict=True))
    labels, valid = targets.score.tolist(), answers.valid.tolist()
    found = plain_loops.pair_rewards(answers.score.tolist(), valid, labels, places, **options)
    return np.array(found)


@pytest.mark.parametrize("name", RANKINGS)
def test_published_rankings_equal_plain_loops(name: str):
    reward, options = RANKINGS[name]
    shapes = [(2, 2, 1, 0.0), (7, 5, 2, 0.3), (12, 4, 3, 0.6), (7, 5, 1, 0.0)]
    for seed, (rows, group, pools, unread) in enumerate(shapes):
        answers, targets = random_rollout(seed, rows=rows, group=group, pools=pools, unread=unread)
        if name == "completion_ranking":  # in hundredths of the label range
            answers = make_answers(answers.score * 20, answers.valid)
            targets = make_targets(targets.score * 20, targets.pool, targets.task)
        expected = by_loops(answers, targets, **options)
        np.testing.assert_allclose(reward(answers, targets), expected, atol=1e-5)


RULES = [
    dict(zip(("link", "variance", "gain", "tie"), values, strict=True))
    for values in itertools.product(
        ("probit", "logistic"),
        ("bessel", "population", "none"),
        ("fidelity", "cross_entropy"),
        (0.5, 1.0),
    )
][::5]
RULES += [{"temperature": 0.3}, {"distance": 0.5}, {"unit": 4.0}, {"least": 1}, {"epsilon": 0.01}]


@pytest.mark.parametrize("options", RULES, ids=str)
def test_every_option_equals_plain_loops(options: dict):
    answers, targets = random_rollout(11, rows=9, group=4, pools=2, unread=0.3)
    words = options.copy()
    rule = PairwiseRule(
        ties="win" if words.pop("tie", 0.5) == 1.0 else "half",
        label_temperature=words.pop("temperature", 0.0),
        distance_scale=words.pop("distance", 0.0),
        label_range=words.pop("unit", 1.0),
        min_scores=words.pop("least", 2),
        variance_epsilon=words.pop("epsilon", 1e-6),
        **words,
    )
    expected = by_loops(answers, targets, **options)
    assert np.count_nonzero(expected) > 6
    np.testing.assert_allclose(pairwise(answers, targets, rule), expected, atol=1e-5)


def test_agreeing_groups_on_a_wide_scale_keep_their_digits():
    scores = np.float32([[70.1] * 4, [70.1] * 4, [70.11] * 4])
    answers, targets = make_answers(scores), make_targets([70.0, 71.0, 72.0])
    expected = by_loops(answers, targets)
    np.testing.assert_allclose(ranking.thurstone_fidelity(answers, targets), expected, atol=1e-4)


@pytest.mark.parametrize("name", RANKINGS)
def test_reward_prefers_the_right_order(name: str):
    reward = RANKINGS[name][0]
    targets = make_targets([20.0, 80.0])
    right = reward(make_answers([[20.0, 30.0], [70.0, 80.0]]), targets)
    wrong = reward(make_answers([[70.0, 80.0], [20.0, 30.0]]), targets)
    assert (np.asarray(right) > np.asarray(wrong) + 0.3).all()


@pytest.mark.parametrize("name", RANKINGS)
def test_pairs_stay_inside_pool_and_task(name: str):
    reward = RANKINGS[name][0]
    pools, tasks = np.int32([0, 0, 1, 1, 0, 0]), np.int32([0, 0, 0, 0, 1, 1])
    answers, targets = random_rollout(5, rows=6, group=3)
    targets = make_targets(targets.score, pools, tasks)
    whole = np.asarray(reward(answers, targets))
    for rows in ([0, 1], [2, 3], [4, 5]):
        part_of = lambda leaf, rows=rows: leaf[np.array(rows)]  # noqa: E731
        part = reward(*jax.tree.map(part_of, (answers, targets)))
        np.testing.assert_allclose(part, whole[rows], atol=1e-6)


@pytest.mark.parametrize("name", RANKINGS)
def test_unread_completions_earn_nothing_and_are_not_averaged(name: str):
    reward = RANKINGS[name][0]
    targets = make_targets([20.0, 80.0])
    plain = make_answers([[10.0, 30.0], [60.0, 90.0]])
    padded = make_answers([[10.0, 0.0, 30.0], [60.0, 90.0, 0.0]], [[1, 0, 1], [1, 1, 0]])
    found, expected = np.asarray(reward(padded, targets)), np.asarray(reward(plain, targets))
    np.testing.assert_allclose(found[0, [0, 2]], expected[0], atol=1e-6)
    np.testing.assert_allclose(found[1, :2], expected[1], atol=1e-6)
    assert found[0, 1] == found[1, 2] == 0


@pytest.mark.parametrize("name", RANKINGS)
def test_rows_without_partners_earn_nothing_and_change_nothing(name: str):
    reward = RANKINGS[name][0]
    answers, targets = random_rollout(3, rows=2, group=3)
    targets = make_targets(targets.score)
    expected = reward(answers, targets)
    valid = np.ones((6, 3), bool)
    valid[2], valid[3, 1:] = False, False  # no score, one score; then no label; then a pool alone
    scores = np.vstack([answers.score, np.full((4, 3), 2.5, np.float32)])
    labels = np.append(targets.score, np.float32([2, 3, np.nan, 4]))
    found = reward(make_answers(scores, valid), make_targets(labels, np.int32([0, 0, 0, 0, 0, 1])))
    np.testing.assert_allclose(found[:2], expected, atol=1e-6)
    np.testing.assert_array_equal(found[2:], 0)


@pytest.mark.parametrize("name", RANKINGS)
@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ([[3.0, 3.0], [3.0, 3.0]], [3.0, 3.0]),
        ([[3e38, -3e38], [3e38, 3e38]], [1.0, 5.0]),
        ([[1e30, 1e-30], [0.0, -0.0]], [3e38, -3e38]),
        ([[1.0, 2.0], [3.0, 4.0]], [np.inf, -np.inf]),
        ([[1.0], [3.0]], [1.0, 2.0]),
        ([[1.0, 2.0]], [1.0]),
        ([[0.0, 0.0], [0.0, 0.0]], [0.0, 1e6]),
    ],
)
def test_nothing_makes_a_number_that_is_none(name: str, scores, labels):
    found = np.asarray(RANKINGS[name][0](make_answers(scores), make_targets(labels)))
    assert np.isfinite(found).all() and (found >= 0).all() and (found < 1.01).all()


def test_pairs_span_devices():
    devices = np.array(jax.devices()[:4])
    rows = jax.sharding.NamedSharding(
        jax.sharding.Mesh(devices, "data"), jax.sharding.PartitionSpec("data")
    )
    whole = random_rollout(8, rows=8, group=3, unread=0.2)
    reward = ranking.thurstone_fidelity
    found = reward(*jax.device_put(whole, rows))
    np.testing.assert_allclose(found, reward(*whole), atol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("variance_epsilon", 0.0),
        ("variance_epsilon", np.inf),
        ("label_temperature", -1.0),
        ("distance_scale", np.nan),
        ("label_range", 0.0),
        ("gain_epsilon", -1e-9),
        ("gain_epsilon", 0.5),
        ("min_scores", 0),
    ],
)
def test_impossible_rules_are_refused(field: str, value: float):
    with pytest.raises(ValueError, match=f"{field} is .*expected"):
        PairwiseRule(**{field: value})
    with pytest.raises(ValueError, match="gain_epsilon is 0.0"):
        PairwiseRule(gain="cross_entropy", gain_epsilon=0.0)
