import dataclasses
import json
import math

import numpy as np
import pytest
import scipy.stats

from jaxqa.errors import UserError
from jaxqa.evaluation import evaluator
from jaxqa.evaluation.evaluator import Prediction, judged_score, summarise


def prediction(label, score, *, example_id=0, dataset="jaxqa_demo", **more):
    error = None if score is not None else "no number could be parsed from the answer"
    fields = {
        "example_id": example_id,
        "image": "data/a.png",
        "dataset": dataset,
        "label": label,
        "score": score,
        "text": "<think>sharp</think><answer>3</answer>",
        "error": error,
    }
    return Prediction(**fields | more)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_summary_agrees_with_scipy(seed):
    random = np.random.default_rng(seed)
    labels = random.uniform(1, 5, 37)
    scores = np.clip(np.round(labels + random.normal(0, 0.7, 37), 1), 1, 5)  # with ties
    summary = summarise(
        [prediction(float(a), float(b)) for a, b in zip(labels, scores, strict=True)]
    )
    assert summary.pop("dataset") == "jaxqa_demo"
    assert summary == pytest.approx(
        {
            "plcc": scipy.stats.pearsonr(scores, labels).statistic,
            "srcc": scipy.stats.spearmanr(scores, labels).statistic,
            "krcc": scipy.stats.kendalltau(scores, labels).statistic,
            "rmse": math.sqrt(np.mean((scores - labels) ** 2)),
            "mae": np.mean(abs(scores - labels)),
            "n": 37,
            "n_failed": 0,
        }
    )


def test_failed_answers_are_counted_and_change_nothing_else():
    good = [prediction(1.0, 1.5), prediction(3.0, 2.5), prediction(5.0, 5.0)]
    bad = [prediction(1.0, None), prediction(5.0, 0.99), prediction(5.0, 5.01)]
    bad.append(prediction(5.0, math.nan))
    both = summarise([bad[0], *good, *bad[1:]])
    assert (both.pop("n"), both.pop("n_failed")) == (7, 4)
    alone = summarise(good)
    assert (alone.pop("n"), alone.pop("n_failed")) == (3, 0)
    assert both == alone


def test_metrics_without_a_value_are_null():
    constant = summarise([prediction(1.0, 3.0), prediction(5.0, 3.0)])
    assert constant["plcc"] is None and constant["srcc"] is None and constant["krcc"] is None
    assert constant["mae"] == 2.0
    none = summarise([prediction(1.0, None)])
    assert [none[name] for name in evaluator.METRICS] == [None] * 5
    assert (none["n"], none["n_failed"]) == (1, 1)
    json.dumps([constant, none], allow_nan=False)


def test_one_data_set_at_a_time():
    with pytest.raises(ValueError, match=r"found \['jaxqa_demo', 'kadid10k'\]"):
        summarise([prediction(1.0, 1.0), prediction(1.0, 1.0, dataset="kadid10k")])
    with pytest.raises(ValueError, match=r"found \[\]"):
        summarise([])


def test_unknown_data_set_is_a_user_error():
    with pytest.raises(UserError, match="unknown data set 'koniq'"):
        summarise([prediction(1.0, 1.0, dataset="koniq")])


def test_judged_score_never_clips():
    assert judged_score("jaxqa_demo", 1.0) == (1.0, None)
    assert judged_score("jaxqa_demo", 5.0) == (5.0, None)
    for parsed in (5.0001, 0.0, -3.0, math.inf, math.nan):
        score, error = judged_score("jaxqa_demo", parsed)
        assert score is None and error is not None and "outside the label range 1 to 5" in error
    score, error = judged_score("jaxqa_demo", None)
    assert score is None and error is not None and "parsed" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": None, "error": None}, "exactly one"),
        ({"score": 3.0, "error": "bad"}, "exactly one"),
        ({"label": math.nan}, "not finite"),
    ],
)
def test_records_that_contradict_themselves_are_refused(change, message):
    valid = prediction(3.0, 3.0)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(valid, **change)


def test_predictions_return_from_their_file_unchanged(tmp_path):
    path = evaluator.predictions_path(tmp_path, "grpo")
    assert path == tmp_path / "evaluations" / "grpo.jsonl"
    assert evaluator.read_predictions(path) == []
    predictions = [
        prediction(1 / 3, 2.345678901234567, example_id=2**63 - 1, distortion="jpeg"),
        prediction(2.0, None, text="<script>\x00\n\u2028 质量 \ud800"),
    ]
    evaluator.write_predictions(path, predictions)
    assert evaluator.read_predictions(path) == predictions


def test_damaged_predictions_name_file_and_line(tmp_path):
    path = tmp_path / "sft.jsonl"
    evaluator.write_predictions(path, [prediction(1.0, 1.0)])
    with path.open("a") as file:
        file.write('{"example_id": 1}\n')
    with pytest.raises(UserError, match=r"sft\.jsonl, line 2: .*missing.*evaluate the stage again"):
        evaluator.read_predictions(path)
