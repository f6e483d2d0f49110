import jax
import numpy as np
import pytest

from jaxqa.rewards.answers import Targets
from jaxqa.rewards.parsing import parse_answers
from jaxqa.rewards.registry import REWARDS, RewardTerm, combine

TEXTS = [
    ["<think>x</think><answer>3.0</answer>", "<answer>3.8</answer>", "hm"],
    ["<think>x</think><answer>1.2</answer>", "<answer>2.0</answer>", "<answer>5</answer>"],
]
TARGETS = Targets(score=np.float32([3.0, 2.0]), pool=np.int32([0, 0]))


def test_sum_and_parts():
    terms = (
        RewardTerm(name="gaussian", weight=2.0, options={"sigma": 0.8}),
        RewardTerm(name="format", weight=0.5),
    )
    total, parts = combine(terms, parse_answers(TEXTS), TARGETS)
    near = np.exp(-0.5)
    gaussian = np.array([[1.0, near, 0.0], [near, 1.0, np.exp(-0.5 * (3 / 0.8) ** 2)]])
    layout = np.array([[1.0, 0, 0], [1.0, 0, 0]])
    np.testing.assert_allclose(parts["gaussian"], gaussian, rtol=1e-5)
    np.testing.assert_allclose(parts["format"], layout)
    np.testing.assert_allclose(total, 2 * gaussian + 0.5 * layout, rtol=1e-5)
    assert total.dtype == np.float32


def test_equal_terms_compile_once():
    def term(tolerance: float) -> RewardTerm:
        return RewardTerm(name="threshold", options={"tolerance": tolerance})

    assert term(0.35) == term(0.35) and hash(term(0.35)) == hash(term(0.35))
    assert term(0.35) != term(0.4)
    answers = parse_answers(TEXTS)
    combine((term(0.35),), answers, TARGETS)
    compiled = combine._cache_size()
    combine((term(0.35),), answers, TARGETS)
    assert combine._cache_size() == compiled


def test_every_reward_gives_one_number_per_answer():
    options = {"gaussian": {"sigma": 1.0}, "threshold": {"tolerance": 1.0}, "format": {}}
    assert options.keys() == REWARDS.keys()
    for name, values in options.items():
        shape = jax.eval_shape(
            lambda a, t, name=name, values=values: REWARDS[name](a, t, **values),
            parse_answers(TEXTS),
            TARGETS,
        )
        assert (shape.shape, shape.dtype) == ((2, 3), np.float32)


def test_wrong_terms_are_refused_with_what_is_known():
    with pytest.raises(ValueError, match="'gausian'.*format.*gaussian.*threshold"):
        RewardTerm(name="gausian")
    with pytest.raises(ValueError, match="missing.*sigma"):
        RewardTerm(name="gaussian")
    with pytest.raises(ValueError, match="unknown.*width"):
        RewardTerm(name="gaussian", options={"sigma": 1.0, "width": 2.0})
    with pytest.raises(ValueError, match="finite"):
        RewardTerm(name="format", weight=float("nan"))
    answers = parse_answers(TEXTS)
    with pytest.raises(ValueError, match="at least one"):
        combine((), answers, TARGETS)
    with pytest.raises(ValueError, match="each name once"):
        combine((RewardTerm(name="format"), RewardTerm(name="format")), answers, TARGETS)
