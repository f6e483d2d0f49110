"""The report's figures: small inline SVG with one colour per stage."""

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

from jaxqa.evaluation.evaluator import Prediction

STAGE_COLOURS = ("#2f6690", "#c2512f", "#3a7d5c", "#7d5ba6", "#a67c1e", "#4c9aa8")
LABEL_COLOUR = "#8b8f98"
_INK, _FAINT = "#3d424b", "#dcdad4"

PART_DASHES = {
    "dashed": (0, (4, 2)),
    "dotted": (0, (1, 1.5)),
    "dash-dotted": (0, (4, 1.5, 1, 1.5)),
    "long dashes": (0, (8, 2)),
}
"""Name -> dash of the parts of a `curve`, in order; more parts than these are not drawn."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # real text: crisp, small, set in the page's own font
    "font.size": 8.5,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-3, 5),
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "grid.color": _FAINT,
    "grid.linewidth": 0.5,
}
_MOST_POINTS = 300
_MANY_DOTS = 3000


def stage_colour(index: int) -> str:
    """The colour of the run's stage number `index`."""
    return STAGE_COLOURS[index % len(STAGE_COLOURS)]


def scatter(
    predictions: Sequence[Prediction], *, label_range: tuple[float, float], colour: str
) -> str:
    """Label over predicted score, with the least-squares line and the diagonal; SVG text.

    Predictions without a score are left out.
    """
    scores, labels = scores_and_labels(predictions)
    with rc_context(STYLE):
        figure, axes = _framed(3.4, 3.32)
        low, high = _padded(label_range)
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        axes.set(xlabel="predicted score", ylabel="label")
        _nice_ticks(axes, label_range)
        axes.grid(True)
        axes.plot([low, high], [low, high], color=_INK, lw=0.7, ls=(0, (1, 2.5)))
        axes.scatter(
            scores,
            labels,
            s=float(np.clip(2600 / max(len(scores), 1), 5, 20)),
            color=colour,
            alpha=0.55,
            linewidths=0,
            rasterized=len(scores) > _MANY_DOTS,
        )
        line = fitted_line(scores, labels)
        if line is not None:
            ends = np.array([scores.min(), scores.max()])
            axes.plot(ends, line[0] * ends + line[1], color=colour, lw=1.8, solid_capstyle="round")
        return _svg(figure, f"scatter {colour}", "Label over predicted score")


def distributions(
    predictions: Sequence[Prediction], *, label_range: tuple[float, float], colour: str
) -> str:
    """Histograms of labels (grey) and predicted scores over the same bins; SVG text."""
    scores, _ = scores_and_labels(predictions)
    labels = np.array([prediction.label for prediction in predictions], np.float64)
    edges = np.linspace(*label_range, 17).tolist()
    with rc_context(STYLE):
        figure, axes = _framed(3.4, 1.6)
        axes.hist(labels, edges, color=LABEL_COLOUR, alpha=0.45, linewidth=0)
        axes.hist(scores, edges, color=colour, histtype="step", linewidth=1.5)
        axes.set(xlim=_padded(label_range), xlabel="score", ylabel="images")
        _nice_ticks(axes, label_range)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        return _svg(figure, f"distributions {colour}", "Distributions of labels and scores")


def curve(
    values: Sequence[tuple[int, float]],
    *,
    colour: str,
    name: str,
    smooth: bool = True,
    parts: Mapping[str, Sequence[tuple[int, float]]] | None = None,
) -> str:
    """One metric over the steps; SVG text.

    Faint as logged and strong as a running mean, or without `smooth` once, as logged. `parts`
    are drawn thin beside it, each in its own dash, in the order of the mapping.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(3.4, 1.75), layout="constrained")
        axes = figure.subplots()
        for points, dash in zip((parts or {}).values(), PART_DASHES.values(), strict=False):
            steps, strong = _thinned(points, smooth=smooth)
            axes.plot(steps, strong, color=_INK, lw=0.9, ls=dash)
        if smooth:
            steps, faint = _thinned(values, smooth=False)
            axes.plot(steps, faint, color=colour, lw=0.7, alpha=0.35)
        steps, strong = _thinned(values, smooth=smooth)
        marker = "o" if len(steps) == 1 else None
        axes.plot(steps, strong, color=colour, lw=1.6, marker=marker, ms=3)
        axes.set_xlabel("step")
        axes.margins(x=0.01, y=0.08)
        axes.grid(True, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        return _svg(figure, f"{name} {colour}", f"{name} over the steps")


def scores_and_labels(predictions: Sequence[Prediction]) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of the predictions that have a score."""
    scored = [(p.score, p.label) for p in predictions if p.score is not None]
    pairs = np.array(scored, np.float64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def fitted_line(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float] | None:
    """Slope and intercept of label over score; None if the scores do not differ."""
    if len(scores) < 2 or np.ptp(scores) == 0:
        return None
    centred = scores - scores.mean()
    slope = float(centred @ labels / (centred @ centred))
    return slope, float(labels.mean() - slope * scores.mean())


def running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over a centred window of a twelfth of the series, cut off at its ends."""
    half = len(values) // 24
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    begins = np.maximum(places - half, 0)
    ends = np.minimum(places + half + 1, len(values))
    return (sums[ends] - sums[begins]) / (ends - begins)


def _thinned(points: Sequence[tuple[int, float]], *, smooth: bool) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values, averaged over equal runs of steps down to what the eye can tell apart."""
    steps, values = np.array(points, np.float64).reshape(-1, 2).T
    values = running_mean(values) if smooth else values
    runs = min(len(steps), _MOST_POINTS)
    groups = zip(np.array_split(steps, runs), np.array_split(values, runs), strict=True)
    means = np.array([(step.mean(), value.mean()) for step, value in groups])
    return means[:, 0], means[:, 1]


def _padded(label_range: tuple[float, float]) -> tuple[float, float]:
    low, high = label_range
    margin = 0.04 * (high - low)
    return low - margin, high + margin


def _nice_ticks(axes: Axes, label_range: tuple[float, float]) -> None:
    low, high = label_range
    if high - low <= 10 and float(low).is_integer():
        axes.xaxis.set_major_locator(MultipleLocator(1))
        if axes.get_aspect() == 1:
            axes.yaxis.set_major_locator(MultipleLocator(1))


def _framed(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with fixed margins, so that axes that stand above each other line up."""
    left, bottom, gap = 0.42, 0.38, 0.04
    figure = Figure(figsize=(width, height))
    place = (
        left / width,
        bottom / height,
        1 - (left + gap) / width,
        1 - (bottom + gap) / height,
    )
    axes = figure.add_axes(place)
    axes.yaxis.set_label_coords(-0.3 / (width - left - gap), 0.5)
    return figure, axes


def _svg(figure: Figure, identity: str, title: str) -> str:
    """Inline SVG that scales with its column. Same figure, same text: ids come from `identity`."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.hashsalt": identity}):
        figure.savefig(buffer, format="svg", transparent=True, dpi=150, metadata=nothing)
    text = buffer.getvalue()
    body = text[text.index("<svg") :]
    view = body[body.index("viewBox") :].split('"')[1]
    inner = body[body.index(">") + 1 :]
    # A page holds many figures: no repeated ids, no style sheet that reaches beyond its figure.
    inner = re.sub(r'<g id="[^"]*"', "<g", inner)
    inner = re.sub(r"<style.*?</style>|font-family: [^;]*;", "", inner, flags=re.DOTALL)
    return f'<svg viewBox="{view}" role="img" aria-label="{html.escape(title)}">{inner}'
