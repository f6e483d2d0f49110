import dataclasses
import inspect
import typing

import jax
import numpy as np
import pytest
from reward_arrays import make_answers, make_targets, random_rollout

from jaxqa.rewards.answers import LAYOUTS, Answers, score_targets
from jaxqa.rewards.labels import TASKS
from jaxqa.rewards.parsing import parse_answers
from jaxqa.rewards.registry import RANKING, REWARDS, RewardTerm, combine

TEXTS = [
    ["<think>x</think><answer>3.0</answer>", "<answer>3.8</answer>", "hm"],
    ["<think>x</think><answer>1.2</answer>", "<answer>2.0</answer>", "<answer>5</answer>"],
]
TARGETS = score_targets(np.float32([3.0, 2.0]), np.int32([0, 0]))


def test_sum_and_parts():
    terms = (
        ("near", RewardTerm(name="gaussian", weight=2.0, options={"sigma": 0.8})),
        ("layout", RewardTerm(name="format", weight=0.5)),
        ("wide", RewardTerm(name="gaussian", weight=-1.0, options={"sigma": 1.6})),
    )
    total, parts, counters = combine(terms, parse_answers(TEXTS), TARGETS)
    near, wide = np.exp(-0.5), np.exp(-0.5 * 0.25)
    gaussian = np.array([[1.0, near, 0.0], [near, 1.0, np.exp(-0.5 * (3 / 0.8) ** 2)]])
    wider = np.array([[1.0, wide, 0.0], [wide, 1.0, np.exp(-0.5 * (3 / 1.6) ** 2)]])
    layout = np.array([[1.0, 0, 0], [1.0, 0, 0]])
    assert parts.keys() == {"near", "layout", "wide"}
    np.testing.assert_allclose(parts["near"], gaussian, rtol=1e-5)
    np.testing.assert_allclose(parts["wide"], wider, rtol=1e-5)
    np.testing.assert_allclose(parts["layout"], layout)
    np.testing.assert_allclose(total, 2 * gaussian + 0.5 * layout - wider, rtol=1e-5)
    assert total.dtype == np.float32
    assert {name: float(value) for name, value in counters.items()} == {
        "unparsed": pytest.approx(1 / 6),
        "nan_label": 0.0,
    }


def test_terms_reward_the_rows_of_their_tasks():
    tasks = np.arange(len(TASKS), dtype=np.int32)
    answers = make_answers(np.full((len(TASKS), 2), 3.0))
    targets = make_targets(np.full(len(TASKS), 3.0), task=tasks)
    terms = (
        ("all", RewardTerm(name="gaussian", options={"sigma": 1.0})),
        (
            "two",
            RewardTerm(name="gaussian", options={"sigma": 1.0}, tasks=("comparison", "aesthetics")),
        ),
    )
    total, parts, _ = combine(terms, answers, targets)
    np.testing.assert_array_equal(parts["all"], 1)
    np.testing.assert_array_equal(parts["two"], np.isin(tasks, (1, 4))[:, None] * np.ones((1, 2)))
    np.testing.assert_array_equal(total, parts["all"] + parts["two"])


def test_a_ranking_term_ranks_inside_its_tasks():
    answers, targets = random_rollout(4, rows=8, group=3)
    tasks = np.int32([0, 1] * 4)
    targets = make_targets(targets.score, task=tasks)
    term = RewardTerm(name="thurstone_fidelity", tasks=("aesthetics",))
    total, _, _ = combine((("rank", term),), answers, targets)
    of_task = jax.tree.map(lambda leaf: leaf[1::2], (answers, targets))
    np.testing.assert_allclose(total[1::2], REWARDS["thurstone_fidelity"](*of_task), atol=1e-6)
    assert not np.asarray(total[0::2]).any()


def test_what_earned_nothing_is_counted():
    valid = np.ones((8, 2), bool)
    valid[1], valid[2, 1] = False, False  # rows 1 and 2: no score, one score
    labels = np.float32([1, 2, 3, np.nan, 4, 5, np.nan, np.nan])
    tasks = np.int32([0, 0, 0, 0, 0, 1, 3, 4])  # row 6 and 7: other answers, without a label
    pools = np.int32([0, 0, 0, 0, 1, 0, 0, 0])  # row 4 alone in its pool, row 5 in its task
    answers, targets = make_answers(np.ones((8, 2)), valid), make_targets(labels, pools, tasks)
    rank = RewardTerm(name="frank")
    total, _, counters = combine((("rank", rank),), answers, targets)
    assert not np.asarray(total).any()  # row 0 lacks a partner too
    expected = {"unparsed": 7 / 16, "nan_label": 3, "too_few_scores": 2, "alone_in_pool": 3}
    assert {name: float(value) for name, value in counters.items()} == pytest.approx(expected)
    aesthetics = RewardTerm(name="frank", tasks=("aesthetics",))
    _, _, counters = combine((("rank", aesthetics),), answers, targets)
    assert (float(counters["too_few_scores"]), float(counters["alone_in_pool"])) == (0, 1)


def test_a_rollout_without_any_answer():
    terms = tuple((name, RewardTerm(name=name)) for name in RANKING)
    answers = make_answers(np.zeros((4, 3)), np.zeros((4, 3)))
    total, _, counters = combine(terms, answers, make_targets([1.0, 2.0, 3.0, 4.0]))
    assert not np.asarray(total).any()
    assert (float(counters["unparsed"]), float(counters["too_few_scores"])) == (1.0, 4.0)


def test_equal_terms_compile_once():
    def terms(tolerance: float) -> tuple[tuple[str, RewardTerm], ...]:
        return (("a", RewardTerm(name="threshold", options={"tolerance": tolerance})),)

    assert terms(0.35) == terms(0.35) and hash(terms(0.35)) == hash(terms(0.35))
    assert terms(0.35) != terms(0.4)
    answers = parse_answers(TEXTS)
    combine(terms(0.35), answers, TARGETS)
    compiled = combine._cache_size()
    combine(terms(0.35), answers, TARGETS)
    assert combine._cache_size() == compiled


NEEDED = {
    "gaussian": {"sigma": 1.0},
    "threshold": {"tolerance": 1.0},
    "thinking_cost": {"words_free": 4, "words_max": 8},
}
OTHER = {
    "words_free": 1,
    "words_max": 80,
    "min_words": 6,
    "max_words": 6,
    "layout": "json",
    "answer_required": False,
    "link": ("probit", "logistic"),
    "variance": "none",
    "ties": ("win", "half"),
    "inner": 0.01,
    "outer": 0.8,
    "label_range": 3.0,
}
"""Another value of an option, or several of which one is another; of numbers, by default half."""


def example() -> tuple[Answers, typing.Any]:
    answers = make_answers(
        [[3.0, 3.13, 0.0], [4.1, 2.2, 3.0], [2.2, 2.3, 3.0]],
        [[1, 1, 0], [1, 1, 1], [1, 1, 1]],
        words=[[5, 6, 7]] * 3,
        class_id=[[0, 1, 1]] * 3,
        severity_id=[[0, 2, 3]] * 3,
        choice_id=[[0, 1, -1]] * 3,
    )
    layouts = np.array(answers.layouts)
    layouts[..., LAYOUTS.index("json")] = [[False, True, True]] * 3
    named = np.ones(3, np.int32)
    targets = dataclasses.replace(
        make_targets([3.05, 3.5, 3.5]), class_id=named, severity_id=2 * named, choice_id=named
    )
    return dataclasses.replace(answers, layouts=layouts), targets


def options_of(name: str) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(REWARDS[name]).parameters.items()
    return {key: p for key, p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(("name", "option"), [(n, o) for n in REWARDS for o in options_of(n)])
def test_every_option_of_every_reward_changes_it(name: str, option: str):
    def outcome(**options) -> np.ndarray:
        term = RewardTerm(name=name, options=NEEDED.get(name, {}) | options)
        return np.asarray(REWARDS[name](*example(), **term.options))

    default = NEEDED.get(name, {}).get(option, options_of(name)[option].default)
    other = OTHER.get(option, default / 2 if isinstance(default, float) and default else 0.1)
    values = other if isinstance(other, tuple) else (other,)
    assert any((outcome(**{option: value}) != outcome()).any() for value in values)


@pytest.mark.parametrize("name", REWARDS)
def test_every_reward_gives_one_finite_number_per_answer(name: str):
    function, options = REWARDS[name], NEEDED.get(name, {})
    assert function(*example(), **options).any()
    answers, targets = random_rollout(1, rows=5, group=4, unread=0.3)
    hostile = dataclasses.replace(answers, score=answers.score * np.float32(1e37))
    for given in (answers, hostile):
        for score in (targets.score, np.full(5, np.nan, np.float32)):
            found = function(given, dataclasses.replace(targets, score=score), **options)
            assert (found.shape, found.dtype) == ((5, 4), np.float32)
            assert np.isfinite(found).all()


def test_wrong_terms_are_refused_with_what_is_known():
    with pytest.raises(ValueError, match="'gausian'.*format.*gaussian.*threshold"):
        RewardTerm(name="gausian")
    with pytest.raises(ValueError, match="missing.*sigma"):
        RewardTerm(name="gaussian")
    with pytest.raises(ValueError, match="unknown.*width"):
        RewardTerm(name="gaussian", options={"sigma": 1.0, "width": 2.0})
    with pytest.raises(ValueError, match="sigma of reward 'gaussian' is '1', expected float"):
        RewardTerm(name="gaussian", options={"sigma": "1"})
    with pytest.raises(ValueError, match="words_free .* is True, expected int"):
        RewardTerm(name="thinking_cost", options={"words_free": True, "words_max": 5})
    with pytest.raises(ValueError, match="layout .* 'xml', expected one of .*'tags'"):
        RewardTerm(name="format", options={"layout": "xml"})
    with pytest.raises(ValueError, match="variance_epsilon is 0.0, expected"):
        RewardTerm(name="frank", options={"variance_epsilon": 0.0})
    with pytest.raises(ValueError, match="finite"):
        RewardTerm(name="format", weight=float("nan"))
    for tasks in (("beauty",), ("quality", "quality")):
        with pytest.raises(ValueError, match="tasks of reward 'format' are .*aesthetics"):
            RewardTerm(name="format", tasks=tasks)
    answers, term = parse_answers(TEXTS), RewardTerm(name="format")
    with pytest.raises(ValueError, match="at least one"):
        combine((), answers, TARGETS)
    with pytest.raises(ValueError, match="each key once"):
        combine((("a", term), ("a", term)), answers, TARGETS)
