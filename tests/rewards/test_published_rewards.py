"""Rewards against numbers that the published code gave, and that code's quirks."""

import json
from pathlib import Path

import numpy as np
import pytest
from reward_arrays import make_answers, make_targets, random_rollout

from jaxqa.rewards.adaptive_gaussian import adaptive_gaussian
from jaxqa.rewards.answers import LAYOUTS
from jaxqa.rewards.compatibility import aes_r1, q_insight, tatar, visualquality_r1
from jaxqa.rewards.format import answer_format
from jaxqa.rewards.gaussian import absolute_error
from jaxqa.rewards.labels import DISTORTION_CLASSES, SEVERITIES
from jaxqa.rewards.parsing import parse_answers
from jaxqa.rewards.ranking import completion_ranking, frank, thurstone_fidelity
from jaxqa.rewards.threshold import threshold

PUBLISHED = json.loads((Path(__file__).parent / "published_rewards.json").read_text())
AESTHETICS = 1


def test_thurstone_equals_visualquality_r1():
    golden = PUBLISHED["visualquality_r1_rank"]
    answers, targets = make_answers(golden["scores"]), make_targets(golden["labels"])
    np.testing.assert_allclose(thurstone_fidelity(answers, targets), golden["rewards"], atol=1e-5)
    local = visualquality_r1.rank_reward(answers, targets, images_per_device=3)
    np.testing.assert_allclose(local, golden["rewards"], atol=1e-5)


def test_absolute_error_equals_aes_r1():
    golden = PUBLISHED["aes_r1_error"]
    answers, targets = make_answers(golden["scores"]), make_targets(golden["labels"])
    np.testing.assert_allclose(aes_r1.error_reward(answers, targets), golden["rewards"], atol=1e-6)
    exact = absolute_error(answers, targets, epsilon=0.0)
    np.testing.assert_allclose(exact, golden["rewards"], atol=5.1e-5)


@pytest.mark.parametrize("parse", [parse_answers, q_insight.parse_answers])
def test_threshold_and_format_equal_q_insight(parse):
    golden = PUBLISHED["q_insight"]
    if parse is parse_answers:  # a number in quotes or with a sign is a number like any other
        golden = golden | {"texts": [t.replace("-3.2", "-9") for t in golden["texts"]]}
    answers, targets = parse([golden["texts"]]), make_targets([golden["label"]])
    found = threshold(answers, targets, tolerance=0.35)
    np.testing.assert_array_equal(found, [golden["scores"]])
    found = answer_format(answers, targets, layout="lines", answer_required=False)
    np.testing.assert_array_equal(found, [golden["formats"]])


def test_adaptive_gaussian_equals_tatar():
    golden = PUBLISHED["tatar_gaussian"]
    answers, targets = make_answers(50.0 + np.array([golden["errors"]])), make_targets([50.0])
    quality = adaptive_gaussian(answers, targets)
    np.testing.assert_allclose(quality, [golden["quality"]], atol=5.1e-4)
    aesthetics = adaptive_gaussian(answers, targets, growth=2.0)
    np.testing.assert_allclose(aesthetics, [golden["aesthetics_unscaled"]], atol=5.1e-4)
    on_five_levels = make_answers(3.0 + np.array([golden["errors"]]) / 25)
    found = adaptive_gaussian(on_five_levels, make_targets([3.0]), label_range=4.0)
    np.testing.assert_allclose(found, [golden["quality"]], atol=5.1e-4)


def test_tatar_scores_each_task_by_its_constants():
    answers = make_answers([[45.0] * 3] * 2, words=[[65, 66, 125]] * 2)
    found = tatar.score_reward(answers, make_targets([50.0] * 2, task=np.int32([0, AESTHETICS])))
    np.testing.assert_allclose(found, [[0.811, 0, 0], [0, 0, 1.0]], atol=5.1e-4)


def test_tatar_ranks_the_completions_of_one_image_by_their_agreement():
    golden = PUBLISHED["tatar_rank_of_one_image"]
    gaps = 100 * np.array(golden["gaps"])
    answers = make_answers(np.stack([50 - gaps / 2, 50 + gaps / 2], axis=1))
    targets = make_targets([50.0] * 4, task=np.full(4, AESTHETICS, np.int32))
    found = tatar.rank_reward(answers, targets, images_per_device=1)
    np.testing.assert_allclose(found[:, 0], golden["rewards"], atol=5.1e-5)
    np.testing.assert_allclose(found[:, 1], golden["rewards"], atol=5.1e-5)
    assert not np.asarray(tatar.thurstone_reward(answers, targets, images_per_device=1)).any()


def test_tatar_ranks_every_completion_of_a_device():
    answers, _ = random_rollout(0, rows=4, group=3, unread=0.3)
    answers = make_answers(answers.score * 20, answers.valid)
    labels, tasks = np.float32([40, 60, 70, 90]), np.int32([1, 1, 1, 0])
    found = tatar.rank_reward(answers, make_targets(labels, task=tasks), images_per_device=2)
    expected = np.zeros((4, 3))
    for device in ([0, 1], [2]):  # row 3 is of another task
        places = [(i, k) for i in device for k in range(3) if answers.valid[i, k]]
        for i, k in places:
            others = [place for place in places if place != (i, k)]
            apart = np.array([labels[i] - labels[j] for j, _ in others]) / 100
            above = np.array([answers.score[i, k] - answers.score[place] for place in others]) / 100
            wanted = 1 / (1 + np.exp(-apart / 0.08))
            given = np.clip(1 / (1 + np.exp(-above / 0.08)), 1e-4, 1 - 1e-4)
            surprise = -wanted * np.log(given) - (1 - wanted) * np.log1p(-given)
            mean = np.average(surprise, weights=np.exp(-np.abs(apart) / 0.12)) if others else 0
            expected[i, k] = np.clip(1 - mean / -np.log(1e-4), 0, 1) if others else 0
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_tatar_thurstone_takes_one_score_for_a_group():
    targets = make_targets([20.0, 80.0], task=np.full(2, AESTHETICS, np.int32))
    answers = make_answers([[20.0, 30.0], [70.0, 0.0]], [[1, 1], [1, 0]])
    found = np.asarray(tatar.thurstone_reward(answers, targets, images_per_device=2))
    assert (found > 0.5).tolist() == [[True, True], [True, False]]
    assert not np.asarray(completion_ranking(answers, targets)).any()
    whole = make_answers([[20.0, 30.0], [70.0, 90.0]])
    found = tatar.thurstone_reward(whole, targets, images_per_device=2)
    np.testing.assert_allclose(found, completion_ranking(whole, targets), atol=1e-6)


def test_published_pairs_share_a_device():
    answers, targets = random_rollout(2, rows=6, group=3)
    targets = make_targets(targets.score, np.arange(6))  # data sets do not matter there
    pools = np.repeat(np.arange(3), 2)
    by_pool = make_targets(targets.score, pools)
    found = visualquality_r1.rank_reward(answers, targets, images_per_device=2)
    np.testing.assert_allclose(found, thurstone_fidelity(answers, by_pool), atol=1e-6)
    found = aes_r1.rank_reward(answers, targets, images_per_device=2)
    exact = frank(answers, by_pool, fidelity_epsilon=1e-6)
    np.testing.assert_array_equal(found, np.round(exact, 4))
    alone = visualquality_r1.rank_reward(answers, targets, images_per_device=1)
    assert not np.asarray(alone).any()
    with pytest.raises(ValueError, match="images_per_device is 0"):
        visualquality_r1.rank_reward(answers, targets, images_per_device=0)


def test_both_of_a_tie_should_win_in_aes_r1():
    answers, targets = make_answers([[0.2, 0.3], [0.7, 0.8]]), make_targets([0.5, 0.5])
    low, high = np.asarray(frank(answers, targets))
    assert (low < 0.3).all() and (high > 0.9).all()
    fair = np.asarray(thurstone_fidelity(answers, targets))
    np.testing.assert_allclose(fair.mean(), 0.71, atol=0.02)  # a half wanted, a side given


def test_q_insight_reads_by_pattern():
    texts = {
        '<answer>{"rating": 4.</answer>': 4.0,
        '<answer>{"rating":1.2.3}</answer>': None,
        '<answer>"rating" : 2</answer> <answer>{"rating": 3}</answer>': 2.0,
        '<answer>{"rating": "3.2"}</answer>': None,
        '<answer>{"rating": 1e1}</answer>': 1.0,
        "<answer>3.2</answer>": None,
        '{"rating": 3}': None,
    }
    answers = q_insight.parse_answers([list(texts)])
    np.testing.assert_array_equal(answers.valid, [[s is not None for s in texts.values()]])
    np.testing.assert_allclose(answers.score, [[s or 0 for s in texts.values()]])


def test_q_insight_reads_quoted_names_in_order():
    texts = {
        '{"distortion_class": "blur", "severity": "slight"}': ("blur", "slight"),
        '{"severity": "slight", "distortion_class": "blur"}': None,
        '{"distortion_class": null, "severity": null}': None,
        '"distortion_class":"noise" and "severity":"null"': ("noise", "null"),
        '{"distortion_class": "blur"}': None,
    }
    group = [f"<answer>{text}</answer>" for text in texts] + ["<answer> Image B\n</answer>"]
    answers = q_insight.parse_answers([group])
    names = [named or (None, None) for named in [*texts.values(), None]]
    classes = [DISTORTION_CLASSES.index(name) if name else -1 for name, _ in names]
    severities = [SEVERITIES.index(name) if name else -1 for _, name in names]
    np.testing.assert_array_equal(answers.class_id, [classes])
    np.testing.assert_array_equal(answers.severity_id, [severities])
    np.testing.assert_array_equal(answers.choice_id, [[-1, -1, -1, -1, -1, 1]])


def test_visualquality_r1_guesses_what_it_cannot_read():
    texts = {
        "<think>x</think><answer>3.5 of 5</answer>": 3.5,
        "<answer>1</answer><answer>about -2.25</answer>": -2.25,
        "about 4, no answer": 4.0,
        "<answer>2": 2.0,
        "<answer>.5</answer>": 5.0,
    }
    answers = visualquality_r1.parse_answers([list(texts)], seed=0)
    np.testing.assert_allclose(answers.score, [list(texts.values())])
    guessed = visualquality_r1.parse_answers([["none"] * 200], seed=1)
    assert guessed.valid.all() and set(guessed.score[0].tolist()) == {1, 2, 3, 4, 5}
    again = aes_r1.parse_answers([["none"] * 200], seed=1)
    np.testing.assert_array_equal(guessed.score, again.score)


def test_visualquality_r1_layout():
    texts = {
        "<think>x</think><answer>3</answer>": True,
        "<think>x</think>\n <answer>3</answer>": True,
        "<think>a<think>b</think><answer>3</answer>": True,
        "<think>x</think>so<answer>3</answer>": False,
        " <think>x</think><answer>3</answer>": False,
        "<think>x</think><answer>3</answer>\n": False,
        "<think></answer>": False,
        "<think>" + "</think>\n" * 100_000 + "</answer>": False,
        "<answer>" * 100_000: False,
    }
    answers = visualquality_r1.parse_answers([list(texts)], seed=0)
    np.testing.assert_array_equal(answers.layouts[0, :, LAYOUTS.index("tags")], [*texts.values()])


def test_tatar_reads_one_number_and_clips_it():
    texts = {
        "<answer>73.42</answer>": 73.42,
        "x <answer>\n```json\n12\n```</answer> y <answer>80</answer>": 12.0,
        "<answer>-3</answer>": 0.0,
        "<answer>1e3</answer>": 100.0,
        "<answer>.5</answer>": None,
        "<answer>5.</answer>": None,
        "<answer>73 points</answer>": None,
        "<answer>73": None,
        "<answer>1e400</answer>": None,
    }
    answers = tatar.parse_answers([list(texts)])
    np.testing.assert_allclose(answers.score, [[s or 0 for s in texts.values()]], rtol=1e-6)
    formats = answer_format(answers, make_targets([50.0]), layout="any")
    np.testing.assert_array_equal(formats, [[s is not None for s in texts.values()]])
