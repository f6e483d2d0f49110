"""Protocols against what the named evaluators compute, written out here with SciPy."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import curve_fit

from jaxqa.data import registry
from jaxqa.errors import UserError
from jaxqa.evaluation import protocols, suites, tatar_quirks
from jaxqa.evaluation.protocols import PROTOCOLS, Scores


def scores(seed=0, *, size=151, task="quality", **more):
    random = np.random.default_rng(seed)
    labels = np.round(random.uniform(1, 5, size), 2)
    values = np.round(np.clip(labels + random.normal(0, 0.6, size), 1, 5), 1)
    fields = {"values": values, "labels": labels, "answers": 25 * (values - 1), "task": task}
    return Scores(**fields | more)


def values(name, given, **options):
    protocol = PROTOCOLS[name]
    found = protocols.figures(protocol, protocols.prepare(protocol, given), resamples=0, **options)
    return {metric: figure.value for metric, figure in found.items()}


def test_raw_is_scipy():
    given = scores()
    x, y = given.values, given.labels
    assert values("raw", given) == pytest.approx(
        {
            "plcc": stats.pearsonr(x, y).statistic,
            "srcc": stats.spearmanr(x, y).statistic,
            "krcc": stats.kendalltau(x, y).statistic,
            "rmse": math.sqrt(np.mean((x - y) ** 2)),
            "mae": np.mean(abs(x - y)),
        }
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_deqa_maps_before_both_correlations(seed):
    given = scores(seed)
    x, y = given.values, given.labels

    def curve(x, b1, b2, b3, b4):
        return (b1 - b2) / (1 + np.exp(-(x - b3) / b4)) + b2

    start = [y.max(), y.min(), x.mean(), x.std() / 4]
    mapped = curve(x, *curve_fit(curve, x, y, p0=start, maxfev=10000)[0])
    found = values("deqa", given)
    assert found["plcc"] == pytest.approx(stats.pearsonr(mapped, y).statistic, abs=1e-6)
    assert found["srcc"] == pytest.approx(stats.spearmanr(mapped, y).statistic, abs=1e-6)
    assert found["rmse"] == values("raw", given)["rmse"]


def test_evalmuse_maps_before_plcc_only():
    given = scores(2)
    found, raw = values("evalmuse", given), values("raw", given)
    assert found["plcc"] != raw["plcc"] and found["srcc"] == raw["srcc"]
    assert found["rmse"] == raw["rmse"]
    assert found["plcc"] == pytest.approx(values("deqa", given)["plcc"], abs=1e-6)


def test_vqeg_gives_errors_on_the_labels_scale_to_any_scores():
    given = scores(3)
    other = Scores(
        values=np.exp(given.values), labels=given.labels, answers=given.values,
        has_label_scale=False,
    )  # fmt: skip
    raw, mapped = values("raw", other), values("vqeg", other)
    assert raw["rmse"] is None and raw["mae"] is None and raw["srcc"] is not None
    assert 0 < mapped["rmse"] < 1 and mapped["plcc"] > raw["plcc"]


def test_pyiqa_hides_the_sign():
    given = scores()
    wrong = Scores(values=-given.values, labels=given.labels, answers=given.answers)
    assert values("raw", wrong)["srcc"] < 0 < values("pyiqa", wrong)["srcc"]
    assert values("pyiqa", wrong)["plcc"] == pytest.approx(values("raw", given)["plcc"])


def tatar_script(task, labels, predictions):
    """What the script does to one number at a time."""

    def label(x):
        if task == "quality":
            if 0 <= x <= 1:
                return x * 100
            if 1 <= x <= 5:
                return (x - 1) / 4 * 100
        elif 0 <= x <= 10:
            return x * 10
        return max(0.0, min(100.0, x))

    def prediction(x):
        if 0 <= x <= 1:
            return x * 100
        if task == "quality" and 1 <= x <= 5:
            return (x - 1) / 4 * 100
        if task != "quality" and 0 <= x <= 10:
            return x * 10
        return max(0.0, min(100.0, x))

    y = np.array([label(float(x)) for x in labels])
    x = np.array([prediction(float(x)) for x in predictions])
    rank = [np.argsort(np.argsort(v, kind="stable"), kind="stable") for v in (x, y)]
    return np.corrcoef(x, y)[0, 1], np.corrcoef(*rank)[0, 1]


@pytest.mark.parametrize("task", ["quality", "aesthetics"])
@pytest.mark.parametrize("high", [1.0, 5.0, 10.0, 100.0])
def test_tatar_is_its_script(task, high):
    random = np.random.default_rng(4)
    labels = np.round(random.uniform(0, high, 400), 1)
    answers = np.round(np.clip(labels * 100 / high + random.normal(0, 20, 400), -5, 105))
    answers[:6] = [0, 1, 5, 10, 4, 0.5]
    given = Scores(values=labels, labels=labels, answers=answers, task=task)
    found = values("tatar", given)
    assert (found["plcc"], found["srcc"]) == pytest.approx(tatar_script(task, labels, answers))


def test_tatar_reads_pipals_labels_as_its_list_holds_them():
    """1 + 4 (Elo - lowest) / (highest - lowest); Elo itself would be cut to 100, all alike."""
    random = np.random.default_rng(5)
    elo = random.uniform(916.71, 1835.99, 50)
    listed = 1 + 4 * (elo - 916.71) / (1835.99 - 916.71)
    answers = np.round(listed + random.normal(0, 0.3, 50), 2)
    found = values("tatar", Scores(values=elo, labels=elo, answers=answers, dataset="pipal"))
    expected = tatar_script("quality", listed, answers)
    assert (found["plcc"], found["srcc"]) == pytest.approx(expected)


def test_tatar_ranks_depend_on_the_order_where_there_are_ties():
    given = scores(5)
    forwards = values("tatar", given)["srcc"]
    turned = Scores(
        values=given.values, labels=given.labels[::-1].copy(), answers=given.answers[::-1].copy()
    )
    assert values("tatar", turned)["srcc"] != pytest.approx(forwards, abs=1e-9)
    assert values("raw", turned)["plcc"] is not None
    np.testing.assert_array_equal(tatar_quirks.ranks(np.array([3.0, 1.0, 3.0])), [1, 0, 2])


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_degenerate_input_has_defined_results(name):
    none = np.zeros(0)
    given = Scores(values=none, labels=none, answers=none)
    assert set(values(name, given).values()) == {None}
    constant = Scores(values=np.full(9, 3.0), labels=np.arange(9.0), answers=np.full(9, 3.0))
    found = values(name, constant)
    assert found["plcc"] is None and found["krcc"] is None
    assert found["srcc"] is None or name == "tatar"  # which ranks them by their place
    two = Scores(
        values=np.array([2.0, 4.0]), labels=np.array([20.0, 40.0]), answers=np.array([20.0, 40.0])
    )
    found = values(name, two)
    expected = None if "plcc" in PROTOCOLS[name].mapped else pytest.approx(1.0)
    assert found["plcc"] == expected
    nan = Scores(values=np.array([1.0, np.nan, 2.0]), labels=np.arange(3.0), answers=np.arange(3.0))
    if name != "tatar":  # which reads the answers
        assert values(name, nan)["plcc"] is None
    note = protocols.prepare(PROTOCOLS[name], two).note
    assert (note is not None) == (PROTOCOLS[name].mapping is not None)


def test_intervals_surround_their_figures():
    for name, protocol in PROTOCOLS.items():
        prepared = protocols.prepare(protocol, scores(6, size=60))
        for metric, figure in protocols.figures(protocol, prepared, resamples=200).items():
            assert figure.low <= figure.value <= figure.high, (name, metric)


def test_names():
    assert {"raw", "deqa", "pyiqa", "tatar", "evalmuse"} <= PROTOCOLS.keys()
    papers = {"tatar", "rali", "ract", "aes_r1", "omniquality_r"}
    assert suites.SUITES.keys() == papers | {"genai_bench", "evalmuse"}
    with pytest.raises(UserError, match="unknown protocol 'qalign'; expected one of raw, deqa"):
        protocols.get_protocol("qalign")
    with pytest.raises(UserError, match="unknown suite 'x'; expected one of tatar, rali"):
        suites.get_suite("x")
    for suite in suites.SUITES.values():
        assert suite.protocol in PROTOCOLS
        for name, split in map(registry.parse_selection, suite.datasets):
            info = registry.dataset_info(name)
            assert split in ("all", "test", *info.splits), f"{suite.name}: {name}:{split}"
        assert len(set(suite.datasets)) == len(suite.datasets)
    assert [len(suites.SUITES[name].datasets) for name in ("tatar", "rali", "ract")] == [8, 7, 8]
    assert [len(suites.SUITES[name].datasets) for name in ("aes_r1", "omniquality_r")] == [5, 12]


def extras(name, given, elements=()):
    protocol = PROTOCOLS[name]
    found = protocols.figures(protocol, protocols.prepare(protocol, given), resamples=0)
    return found, protocols.extra_figures(protocol, given, found, elements)


def test_evalmuse_final_score_weighs_three_figures():
    elements = [(0.9, 1.0), (0.4, 0.0), (0.5, 2 / 3), (0.49, 2 / 3), (0.2, 0.5)]
    found, more = extras("evalmuse", scores(), elements)
    assert more["element_accuracy"].value == 3 / 5  # 0.5 counts as shown, on both sides
    expected = 0.25 * found["srcc"].value + 0.25 * found["plcc"].value + 0.5 * 3 / 5
    assert more["final"].value == pytest.approx(expected, abs=1e-15)
    assert extras("evalmuse", scores())[1] == {
        "element_accuracy": protocols.Figure(value=None),
        "final": protocols.Figure(value=None),
    }
    none = Scores(values=np.ones(3), labels=np.arange(3.0), answers=np.ones(3))
    assert extras("evalmuse", none, elements)[1]["final"].value is None


def test_genai_bench_has_pairwise_accuracy_and_the_others_have_not():
    given = Scores(
        values=np.array([1.0, 1.1, 3.0]), labels=np.array([1.0, 1.0, 2.0]), answers=np.zeros(3)
    )
    assert extras("genai_bench", given)[1]["pairwise_accuracy"].value == 1
    assert extras("raw", given)[1] == {}
