"""What the score is read from: attention on reasoning, image and prompt (RALI, figure 3)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxqa.evaluation.analysis import pictures
from jaxqa.evaluation.analysis.replay import CATEGORIES

_COLOURS = (pictures.GREY, *pictures.COLOURS[:3])


def draw(shares: Sequence[np.ndarray], *, title: str) -> tuple[Figure, list[pictures.Row]]:
    """Mean shares by layer, and over all layers; rows of (layer, part, mean, deviation).

    Args:
      shares: [L 4] of each image, in the order of `replay.CATEGORIES`.
    """
    stacked = np.stack(shares)  # [images L 4]
    means, spreads = stacked.mean(0), stacked.std(0)
    figure, (by_layer, overall) = pictures.panels(2, size=(3.4, 2.3), columns=2)
    layers = np.arange(1, means.shape[0] + 1)
    bottom = np.zeros(len(layers))
    for place, (name, colour) in enumerate(zip(CATEGORIES, _COLOURS, strict=True)):
        by_layer.bar(layers, means[:, place], bottom=bottom, width=0.9, color=colour, label=name)
        bottom += means[:, place]
    by_layer.set(xlabel="layer", ylabel="share of attention", ylim=(0, 1))
    by_layer.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_layer.set_title(title, loc="left", fontsize=8)
    values, errors = stacked.mean(1).mean(0), stacked.mean(1).std(0)
    overall.barh(CATEGORIES, values, xerr=errors, color=_COLOURS, height=0.7, ecolor="#3d424b")
    overall.invert_yaxis()
    overall.set(xlabel=f"mean over layers, {len(shares)} images", xlim=(0, 1))
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
