"""Distributions of predicted scores against the labels' (Aes-R1, figure 1), and how far apart.

A model that ranks well may still use a few numbers only; its histogram shows it at once.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import wasserstein_distance

from jaxqa.evaluation.analysis import pictures
from jaxqa.evaluation.evaluator import Prediction
from jaxqa.evaluation.plots import scores_and_labels


def draw(
    models: Mapping[str, Sequence[Prediction]], label_range: tuple[float, float], *, bins: int = 40
) -> tuple[Figure, list[pictures.Row]]:
    """One panel per model; rows of (model, bin, images by label and by score, distances)."""
    edges = np.linspace(*label_range, bins + 1)
    figure, axes = pictures.panels(len(models), size=(2.6, 2.2))
    rows = []
    for place, (axis, (name, predictions)) in enumerate(zip(axes, models.items(), strict=True)):
        scores, labels = scores_and_labels(predictions)
        counts = [counts_in(edges, values) for values in (labels, scores)]
        divergence, distance = jensen_shannon(*counts), earth_mover(labels, scores)
        colour = pictures.COLOURS[place % len(pictures.COLOURS)]
        axis.stairs(counts[0], edges, fill=True, color=pictures.GREY, alpha=0.45, label="labels")
        axis.stairs(counts[1], edges, color=colour, linewidth=1.4, label="scores")
        axis.set(xlabel="score", ylabel="images", xlim=label_range)
        axis.set_title(name, loc="left", fontsize=8.5, color=colour, pad=14)
        distances = f"Jensen-Shannon {divergence:.3f}, earth mover {distance:.3g}"
        axis.text(0, 1.03, distances, transform=axis.transAxes, fontsize=6.5)
        rows += [
            {
                "model": name,
                "low": edges[i],
                "high": edges[i + 1],
                "labels": int(counts[0][i]),
                "scores": int(counts[1][i]),
                "jensen_shannon": divergence,
                "earth_mover": distance,
                "failed": len(predictions) - len(scores),
            }
            for i in range(bins)
        ]
    handles = axes[0].get_legend_handles_labels()[0]  # a colour of scores is that of its title
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=6.5)
    return figure, rows


def counts_in(edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values between each two edges; the last bin holds its upper edge.

    Edges are moved by a billionth: round scores lie on them, and rounding must not decide.
    """
    moved = edges - 1e-9 * (edges[-1] - edges[0])
    moved[-1] = edges[-1]
    return np.histogram(values, moved)[0]


def jensen_shannon(first: np.ndarray, second: np.ndarray) -> float:
    """Divergence of two histograms in nats, 0 to ln 2; nan if one is empty."""
    if not first.sum() or not second.sum():
        return float("nan")
    p, q = first / first.sum(), second / second.sum()
    middle = (p + q) / 2

    def divergence(a: np.ndarray) -> float:
        kept = a > 0
        return float(np.sum(a[kept] * np.log(a[kept] / middle[kept])))

    return (divergence(p) + divergence(q)) / 2


def earth_mover(first: np.ndarray, second: np.ndarray) -> float:
    """How far one set of numbers must move to become the other, in their unit; nan if empty."""
    if not len(first) or not len(second):
        return float("nan")
    return float(wasserstein_distance(first, second))
