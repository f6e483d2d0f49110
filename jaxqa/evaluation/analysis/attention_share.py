"""What the score is read from: attention on reasoning, image and prompt (RALI, figure 3)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxqa.evaluation.analysis import pictures
from jaxqa.evaluation.analysis.replay import CATEGORIES

_COLOURS = (pictures.GREY, *pictures.COLOURS[:4])


def draw(shares: Sequence[np.ndarray], *, title: str) -> tuple[Figure, list[pictures.Row]]:
    """Mean shares by layer, and over all layers; rows of (layer, part, mean, deviation).

    The picture leaves out parts that no answer has: reasoning where none was written.

    Args:
      shares: [L 5] of each image, in the order of `replay.CATEGORIES`.
    """
    stacked = np.stack(shares)  # [images L 5]
    means, spreads = stacked.mean(0), stacked.std(0)
    figure, (by_layer, overall) = pictures.panels(2, size=(3.4, 2.3), columns=2)
    layers = np.arange(1, means.shape[0] + 1)
    bottom = np.zeros(len(layers))
    shown = np.flatnonzero(stacked.any((0, 1))).tolist()
    names, colours = [CATEGORIES[i] for i in shown], [_COLOURS[i] for i in shown]
    for place, name, colour in zip(shown, names, colours, strict=True):
        by_layer.bar(layers, means[:, place], bottom=bottom, width=0.9, color=colour, label=name)
        bottom += means[:, place]
    by_layer.set(xlabel="layer", ylabel="share of attention", ylim=(0, 1))
    by_layer.set_xlim(0.4, len(layers) + 0.6)
    by_layer.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_layer.set_title(title, loc="left", fontsize=8)
    figure.legend(loc="outside lower center", ncols=len(shown), frameon=False, fontsize=6.5)
    values, errors = stacked.mean(1).mean(0)[shown], stacked.mean(1).std(0)[shown]
    overall.barh(names, values, xerr=errors, color=colours, height=0.7, ecolor="#3d424b")
    overall.invert_yaxis()
    about = f"{len(shares)} image{'s; lines: deviation' if len(shares) > 1 else ''}"
    overall.set(xlabel=f"mean over layers, {about}", xlim=(0, 1))
    for place, value in enumerate(values):
        overall.annotate(
            f"{value:.3f}",
            (value + errors[place], place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    rows: list[pictures.Row] = [
        {
            "layer": int(layer),
            "part": name,
            "mean": float(means[layer - 1, place]),
            "deviation": float(spreads[layer - 1, place]),
            "images": len(shares),
        }
        for layer in layers
        for place, name in enumerate(CATEGORIES)
    ]
    return figure, rows
