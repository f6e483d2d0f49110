"""Do rationales say how good an image is? Several models' texts in CLIP's space (RALI, figure 2).

One t-SNE map of all texts, a panel for each model, coloured by the images' labels; beside it how
long the texts are. The paper shows that reinforcement learning makes them shorter and sorts them
by quality; `neighbour_srcc` measures the latter without the map.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from jaxqa.errors import UserError
from jaxqa.evaluation.analysis import pictures
from jaxqa.evaluation.analysis.domain_map import project
from jaxqa.evaluation.evaluator import Prediction
from jaxqa.evaluation.plots import STYLE
from jaxqa.metrics.correlations import srcc

_ANSWER = re.compile(r"<answer>.*?(</answer>|$)", re.DOTALL)
_TAGS = re.compile(r"</?[a-z]+>")
_NEIGHBOURS = 5
_LENGTH_BINS = 30
_COLOURS = "viridis"


def rationale(text: str) -> str:
    """What an answer says besides its score: no answer block, no tags; empty if that is all."""
    return " ".join(_TAGS.sub(" ", _ANSWER.sub(" ", text)).split())


def draw(
    models: Mapping[str, Sequence[Prediction]],
    embeddings: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
) -> tuple[Figure, list[pictures.Row]]:
    """A map for each model and their lengths; rows of (model, image, label, words, place, ...).

    Args:
      models: answers that have a rationale.
      embeddings: unit vectors [N E] of each model's rationales.
      seed: of t-SNE.

    Raises:
      UserError: a model with fewer than five rationales.
    """
    for name, predictions in models.items():
        if len(predictions) < 5:
            raise UserError(f"{name}: {len(predictions)} rationales; a map needs at least 5")
    together = project(np.concatenate([embeddings[name] for name in models]), seed=seed)
    ends = np.cumsum([len(predictions) for predictions in models.values()])[:-1]
    places = dict(zip(models, np.split(together, ends), strict=True))
    labels = {name: np.array([p.label for p in given]) for name, given in models.items()}
    words = {n: [len(rationale(p.text).split()) for p in given] for n, given in models.items()}
    agreement = {name: neighbour_srcc(embeddings[name], labels[name]) for name in models}
    figure, axes = pictures.panels(len(models) + 1, size=(2.9, 2.7))
    with rc_context(STYLE):
        _draw_maps(figure, axes[:-1], places, labels, agreement)
        _draw_lengths(axes[-1], words)
        handles = [axes[0].get_legend_handles_labels()[0][0]] * (len(models) > 1)
        handles += axes[-1].get_legend_handles_labels()[0]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=6.5
        )
    rows: list[pictures.Row] = [
        {
            "model": name,
            "image": prediction.image,
            "label": prediction.label,
            "score": prediction.score,
            "words": words[name][i],
            "x": float(places[name][i, 0]),
            "y": float(places[name][i, 1]),
            "neighbour_srcc": agreement[name],
        }
        for name, predictions in models.items()
        for i, prediction in enumerate(predictions)
    ]
    return figure, rows


def neighbour_srcc(embeddings: np.ndarray, labels: np.ndarray) -> float:
    """SRCC of labels with the mean label of the five nearest other texts by cosine; or nan.

    1: texts that lie close are about images of like quality; 0: they are not.
    """
    similarity = embeddings.astype(np.float64) @ embeddings.T.astype(np.float64)
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : min(_NEIGHBOURS, len(labels) - 1)]
    return srcc(labels[nearest].mean(1), labels)


def _draw_maps(figure, axes, places, labels, agreement) -> None:  # noqa: ANN001
    everything = np.concatenate(list(labels.values()))
    corners = np.concatenate(list(places.values()))
    margin = 0.05 * np.ptp(corners, axis=0) + 1e-6
    scale = Normalize(everything.min(), everything.max())
    for axis, (name, points) in zip(axes, places.items(), strict=True):
        axis.scatter(
            *corners.T, s=4, lw=0, color=pictures.GREY, alpha=0.15, label="all models' texts"
        )
        order = np.random.default_rng(0).permutation(len(points))  # neither end hides the other
        colours = labels[name][order]
        axis.scatter(*points[order].T, c=colours, s=9, lw=0, cmap=_COLOURS, norm=scale)
        axis.set(xticks=[], yticks=[])
        axis.set_xlim(corners[:, 0].min() - margin[0], corners[:, 0].max() + margin[0])
        axis.set_ylim(corners[:, 1].min() - margin[1], corners[:, 1].max() + margin[1])
        axis.spines[:].set_visible(False)
        axis.set_title(name, loc="left", fontsize=8.5, pad=14)
        found = agreement[name]
        text = f"neighbours' SRCC {found:.2f}" if np.isfinite(found) else "neighbours' SRCC none"
        axis.text(0, 1.03, text, transform=axis.transAxes, fontsize=6.5)
    bar = figure.colorbar(ScalarMappable(scale, _COLOURS), ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("label", fontsize=7)
    bar.ax.tick_params(labelsize=6)
    bar.outline.set_visible(False)


def _draw_lengths(axis, words) -> None:  # noqa: ANN001
    longest = max(max(counts) for counts in words.values())
    edges = np.linspace(0, longest + 1, min(_LENGTH_BINS, longest + 1) + 1)
    for place, (name, counts) in enumerate(words.items()):
        colour = pictures.COLOURS[place % len(pictures.COLOURS)]
        label = f"{name}, median {np.median(counts):g} words"
        axis.hist(counts, edges, histtype="step", lw=1.4, color=colour, label=label)
    axis.set(xlabel="words in a rationale", ylabel="images")
