"""Several models on several data sets: figures, averages, ranks and paired tests."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from jaxqa.evaluation import protocols
from jaxqa.evaluation.evaluator import Prediction
from jaxqa.evaluation.protocols import Figure, Protocol, Scores
from jaxqa.metrics import bootstrap, correlations
from jaxqa.metrics.dependent_correlations import williams

AVERAGED = ("plcc", "srcc")
DIGITS = 3
"""Figures that agree in so many decimals share a rank."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One model's predictions for one data set.

    Attributes:
      model: its name in the table.
      dataset: heading of the column, such as "koniq10k:official/test".
      task: what the labels rate.
      predictions: every image of the split, failures included.
      has_label_scale: False for a tool whose scores have a scale of their own.
    """

    model: str
    dataset: str
    task: str
    predictions: Sequence[Prediction]
    has_label_scale: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Figures of one model on one data set under one protocol.

    Attributes:
      figures: metric -> figure.
      scored, failed: images with and without a score.
      note: why a figure is missing, or None.
      marks: metric -> 1 for the best model, 2 for the second; the others are missing.
    """

    protocol: str
    model: str
    dataset: str
    figures: Mapping[str, Figure]
    scored: int
    failed: int
    note: str | None = None
    marks: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the images that both have scored.

    Attributes:
      metric: "plcc" or "srcc".
      difference, low, high: first minus second, with its bootstrap interval.
      p_bootstrap: two-sided, of the paired bootstrap.
      p_williams: two-sided, of Williams' test (PLCC without resampling), or None.
    """

    protocol: str
    dataset: str
    metric: str
    first: str
    second: str
    images: int
    difference: float | None
    low: float | None
    high: float | None
    p_bootstrap: float | None
    p_williams: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How figures are computed.

    Attributes:
      protocols: one table each.
      resamples: of the bootstrap; 0 gives no intervals and no tests.
      level: confidence of the intervals.
      seed: of the resamples.
      groups: heading -> data sets that are averaged; empty averages all of them.
    """

    protocols: tuple[Protocol, ...] = (protocols.PROTOCOLS["raw"],)
    resamples: int = 1000
    level: float = 0.95
    seed: int = 0
    groups: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Everything a table shows; `averages` are results without intervals, named by group."""

    settings: Settings
    models: tuple[str, ...]
    datasets: tuple[str, ...]
    results: Sequence[Result]
    averages: Sequence[Result]
    comparisons: Sequence[Comparison]
    failures: Sequence[tuple[str, str, Prediction]]


def run_benchmark(entries: Sequence[Entry], settings: Settings) -> Benchmark:
    """Compute every figure of every entry under every protocol.

    Raises:
      ValueError: no entries, or two of one model and data set.
    """
    models = tuple(dict.fromkeys(entry.model for entry in entries))
    datasets = tuple(dict.fromkeys(entry.dataset for entry in entries))
    if not entries or len({(e.model, e.dataset) for e in entries}) != len(entries):
        raise ValueError(f"expected one entry per model and data set, got {len(entries)} entries")
    results, averages, comparisons = [], [], []
    for protocol in settings.protocols:
        found = [_result(entry, protocol, settings) for entry in entries]
        results += _marked(found)
        averages += _marked(_averages(found, protocol, models, _groups(settings, datasets)))
        comparisons += _comparisons(entries, protocol, settings) if settings.resamples else []
    failures = [(e.model, e.dataset, p) for e in entries for p in e.predictions if p.score is None]
    return Benchmark(
        settings=settings,
        models=models,
        datasets=datasets,
        results=results,
        averages=averages,
        comparisons=comparisons,
        failures=failures,
    )


def scores_of(entry: Entry, predictions: Sequence[Prediction]) -> Scores:
    """Arrays of predictions that all have a score."""
    answers = [p.score if p.answer is None else p.answer for p in predictions]
    return Scores(
        values=np.array([p.score for p in predictions], np.float64),
        labels=np.array([p.label for p in predictions], np.float64),
        answers=np.array(answers, np.float64),
        task=entry.task,
        dataset=predictions[0].dataset if predictions else "",
        has_label_scale=entry.has_label_scale,
    )


def _result(entry: Entry, protocol: Protocol, settings: Settings) -> Result:
    scored = [p for p in entry.predictions if p.score is not None]
    scores = scores_of(entry, scored)
    prepared = protocols.prepare(protocol, scores)
    figures = protocols.figures(
        protocol,
        prepared,
        resamples=settings.resamples,
        level=settings.level,
        seed=settings.seed,
    )
    elements = [(e[0], e[1]) for p in scored for e in (p.elements or {}).values()]
    figures |= protocols.extra_figures(protocol, scores, figures, elements)
    note = prepared.note
    if note is None and figures["plcc"].value is None:
        note = _why_undefined(*prepared.pairs["plcc"])
    return Result(
        protocol=protocol.name,
        model=entry.model,
        dataset=entry.dataset,
        figures=figures,
        scored=len(scored),
        failed=len(entry.predictions) - len(scored),
        note=note,
    )


def _why_undefined(scores: np.ndarray, labels: np.ndarray) -> str:
    """Of scores and labels as the protocol compares them."""
    if len(scores) < 2:
        return f"{len(scores)} scored images; a correlation needs two"
    if len(np.unique(scores)) == 1:
        return "all scores are the same"
    return "all labels are the same" if len(np.unique(labels)) == 1 else "not finite"


def _groups(settings: Settings, datasets: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Averages to show: each group of several data sets, and all of them together."""
    groups = {name: tuple(group) for name, group in settings.groups.items() if len(group) > 1}
    if len(datasets) > 1 and tuple(datasets) not in groups.values():
        groups["average"] = tuple(datasets)
    return groups


def _averages(
    results: Sequence[Result],
    protocol: Protocol,
    models: Sequence[str],
    groups: Mapping[str, Sequence[str]],
) -> list[Result]:
    """Plain means over data sets; None where a model has no figure for one of them."""
    by_key = {(result.model, result.dataset): result for result in results}
    averages = []
    for (name, group), model in itertools.product(groups.items(), models):
        members = [by_key.get((model, dataset)) for dataset in group]
        values = {
            metric: [m.figures[metric].value if m else None for m in members] for metric in AVERAGED
        }
        averages.append(
            Result(
                protocol=protocol.name,
                model=model,
                dataset=name,
                figures={metric: Figure(value=_mean(values[metric])) for metric in AVERAGED},
                scored=sum(m.scored for m in members if m),
                failed=sum(m.failed for m in members if m),
            )
        )
    return averages


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _marked(results: Sequence[Result]) -> list[Result]:
    """The same results with the ranks of the best two, where there are models to compare."""
    marks: list[dict[str, int]] = [{} for _ in results]
    for dataset in dict.fromkeys(result.dataset for result in results):
        rows = [i for i, result in enumerate(results) if result.dataset == dataset]
        for metric in (*protocols.METRICS, *protocols.EXTRAS):
            for row, rank in zip(rows, _ranks([results[i] for i in rows], metric), strict=True):
                if rank is not None:
                    marks[row][metric] = rank
    return [dataclasses.replace(r, marks=m) for r, m in zip(results, marks, strict=True)]


def _ranks(results: Sequence[Result], metric: str) -> list[int | None]:
    """1 and 2 for the best two different values; no second among two models."""
    sign = 1 if protocols.HIGHER_IS_BETTER.get(metric, True) else -1
    figures = [result.figures.get(metric, Figure(value=None)).value for result in results]
    rounded = [None if value is None else round(sign * value, DIGITS) for value in figures]
    known = sorted((value for value in rounded if value is not None), reverse=True)
    if len(known) < 2:
        return [None] * len(results)
    best = sorted(set(known), reverse=True)[: 2 if len(known) > 2 else 1]
    return [best.index(value) + 1 if value in best else None for value in rounded]


def _comparisons(
    entries: Sequence[Entry], protocol: Protocol, settings: Settings
) -> list[Comparison]:
    """Every two models on every data set they share."""
    found = []
    for dataset in dict.fromkeys(entry.dataset for entry in entries):
        here = [entry for entry in entries if entry.dataset == dataset]
        for first, second in itertools.combinations(here, 2):
            found += _compare(first, second, protocol, settings)
    return found


def _compare(
    first: Entry, second: Entry, protocol: Protocol, settings: Settings
) -> list[Comparison]:
    by_id = {p.example_id: p for p in second.predictions if p.score is not None}
    pairs = [
        (p, by_id[p.example_id])
        for p in first.predictions
        if p.score is not None and p.example_id in by_id
    ]
    sides = [
        protocols.prepare(protocol, scores_of(entry, [pair[side] for pair in pairs])).pairs
        for side, entry in enumerate((first, second))
    ]
    comparisons = []
    for metric in AVERAGED:
        (x, labels), (z, _) = sides[0][metric], sides[1][metric]
        test = bootstrap.paired_test(
            protocols.row_metric(protocol, metric),
            x,
            z,
            labels,
            count=settings.resamples,
            level=settings.level,
            seed=settings.seed,
        )
        p_williams = _williams(x, z, labels) if metric == "plcc" else math.nan
        comparisons.append(
            Comparison(
                protocol=protocol.name,
                dataset=first.dataset,
                metric=metric,
                first=first.model,
                second=second.model,
                images=len(pairs),
                difference=_finite(test.difference),
                low=_finite(test.low),
                high=_finite(test.high),
                p_bootstrap=_finite(test.p_value),
                p_williams=_finite(p_williams),
            )
        )
    return comparisons


def _williams(x: np.ndarray, z: np.ndarray, labels: np.ndarray) -> float:
    first, second = correlations.plcc(x, labels), correlations.plcc(z, labels)
    return williams(first, second, correlations.plcc(x, z), len(labels))[1]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
