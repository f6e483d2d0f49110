import dataclasses
import math

import numpy as np
import pytest

from jaxqa.data import prompts, registry
from jaxqa.data.records import Example
from jaxqa.data.scales import ScoreScale, score_scale
from jaxqa.data.source import Source, check_ids
from jaxqa.errors import UserError

SCALES = [
    ScoreScale(worst=0.0, best=100.0, low=1.0, high=5.0),
    ScoreScale(worst=100.0, best=0.0, low=1.0, high=5.0),
    ScoreScale(worst=1.0, best=0.0, low=0.0, high=100.0),
    ScoreScale(worst=1.0, best=10.0, low=0.0, high=1.0),
    ScoreScale(worst=-2.5, best=3.7, low=1.0, high=5.0),
    ScoreScale(worst=3.2, best=88.39, low=1.0, high=5.0),
]


@pytest.mark.parametrize("scale", SCALES)
def test_there_and_back_is_the_same_and_follows_the_formula(scale):
    labels = np.random.default_rng(0).uniform(*sorted((scale.worst, scale.best)), 500).tolist()
    for label in [scale.worst, scale.best, *labels]:
        wanted = scale.low + (scale.high - scale.low) * (label - scale.worst) / (
            scale.best - scale.worst
        )
        assert scale.to_prompt(label) == pytest.approx(wanted, rel=1e-14, abs=1e-13)
        there_and_back = scale.to_label(scale.to_prompt(label))
        largest = max(abs(scale.worst), abs(scale.best))
        assert abs(there_and_back - label) <= 4 * math.ulp(largest)
    assert (scale.to_prompt(scale.worst), scale.to_prompt(scale.best)) == (scale.low, scale.high)
    assert (scale.to_label(scale.low), scale.to_label(scale.high)) == (scale.worst, scale.best)


def test_numbers_inside_the_prompts_range_never_leave_the_labels_range():
    for scale in SCALES:
        low, high = sorted((scale.worst, scale.best))
        for score in np.linspace(scale.low, scale.high, 401).round(2).tolist():
            assert low <= scale.to_label(score) <= high


def test_equal_ranges_change_nothing_to_the_bit():
    scale = ScoreScale(worst=1.0, best=5.0, low=1.0, high=5.0)
    assert scale.is_identity
    for label in np.random.default_rng(1).uniform(1, 5, 200).tolist():
        assert scale.to_prompt(label) == label == scale.to_label(label)


@pytest.mark.parametrize("ends", [(1, 1, 0, 1), (0, 1, 2, 2), (0, 1, 3, 2), (0, math.nan, 0, 1)])
def test_impossible_ranges_are_refused(ends):
    with pytest.raises(ValueError, match="expected finite ends"):
        ScoreScale(**dict(zip(("worst", "best", "low", "high"), map(float, ends), strict=True)))


def test_range_and_direction_come_from_the_registry():
    template = prompts.get_template("tatar_quality")
    for info in registry.DATASETS.values():
        low, high = info.label_range
        scale = score_scale(info, template)
        finest = high if info.higher_is_better else low
        if info.task not in ("degradation", "comparison"):
            assert scale is not None and scale.to_prompt(finest) == 100.0
    turned = dataclasses.replace(registry.DATASETS["csiq"], higher_is_better=False)
    scale = score_scale(turned, template)
    assert scale is not None and scale.to_prompt(turned.label_range[0]) == 100.0
    assert score_scale(turned, prompts.get_template("ract_description")) is None


def test_the_measured_range_is_used_where_it_is_known():
    info = dataclasses.replace(registry.DATASETS["koniq10k"], measured_range=(4.0, 88.0))
    scale = score_scale(info, prompts.get_template("q_insight"), "measured")
    assert scale is not None and (scale.to_prompt(4.0), scale.to_prompt(88.0)) == (1.0, 5.0)
    assert scale.to_prompt(68.73) == pytest.approx(1 + 4 * (68.73 - 4) / 84)
    unknown = dataclasses.replace(info, measured_range=None)
    with pytest.raises(UserError, match='no measured range of koniq10k; use scale "label"'):
        score_scale(unknown, prompts.get_template("q_insight"), "measured")


def example(number, **facts):
    return Example(
        **{"example_id": number, "image": b"", "score": 3.0, "dataset": "d", "task": "quality"}
        | facts
    )


def test_a_source_gives_scores_in_its_prompts_range():
    scale = ScoreScale(worst=100.0, best=0.0, low=1.0, high=5.0)
    asked = Source(name="s", examples=[], template=prompts.get_template("q_insight"), scale=scale)
    assert asked.score(example(1, score=25.0)) == 4.0 and asked.label(4.0) == 25.0
    assert asked.score(example(1, score=None)) is None
    described = dataclasses.replace(asked, template=prompts.get_template("ract_description"))
    assert described.score(example(1, score=25.0)) is None


def test_pools_are_data_set_and_task_and_of_alignment_the_text():
    quality = Source(name="q", examples=[], template=prompts.get_template("concise"))
    aligned = dataclasses.replace(quality, template=prompts.get_template("concise_alignment"))
    fox, owl = example(1, prompt="a fox"), example(2, prompt="an owl")
    assert quality.pool(fox) == quality.pool(owl) != aligned.pool(fox)
    assert aligned.pool(fox) != aligned.pool(owl) == aligned.pool(example(3, prompt="an owl"))
    assert quality.pool(fox) != quality.pool(example(1, dataset="e"))


def test_one_id_may_stand_in_two_sources_but_not_twice_in_one():
    template = prompts.get_template("concise")
    once = Source(name="one", examples=[example(1), example(2)], template=template)
    check_ids([once, dataclasses.replace(once, name="two")])
    with pytest.raises(UserError, match="two examples of source 'one' have the same example_id"):
        check_ids([dataclasses.replace(once, examples=[example(1), example(1)])])
    with pytest.raises(ValueError, match="weight is -1"):
        dataclasses.replace(once, weight=-1.0)
