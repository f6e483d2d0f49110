"""Do data sets lie apart? t-SNE of visual tokens and of reasoning text (RALI, figure 4)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from jaxqa.errors import UserError
from jaxqa.evaluation.analysis import pictures
from jaxqa.evaluation.evaluator import Prediction

_COMPONENTS, _PERPLEXITY = 50, 30.0
TITLES = ("visual tokens", "reasoning text")


def draw(
    predictions: Sequence[Prediction],
    visual: np.ndarray,
    textual: np.ndarray,
    *,
    seed: int = 0,
) -> tuple[Figure, list[pictures.Row]]:
    """Two maps with a colour for each data set; rows of (image, data set, label, places).

    The rows also say how well the data sets are told apart (`separation`): the share of images
    whose nearest neighbour in the original space is of their own data set.

    Raises:
      UserError: fewer than five images.
    """
    if len(predictions) < 5:
        raise UserError(f"{len(predictions)} images; a map needs at least 5")
    names = np.array([prediction.dataset for prediction in predictions])
    figure, axes = pictures.panels(2, size=(3.2, 3.0), columns=2)
    maps, separations = [], []
    for axis, title, features in zip(axes, TITLES, (visual, textual), strict=True):
        maps.append(project(features, seed=seed))
        separations.append(separation(features, names))
        for place, name in enumerate(dict.fromkeys(names.tolist())):
            kept = names == name
            look = pictures.look(place)
            axis.scatter(*maps[-1][kept].T, s=9, alpha=0.7, lw=0, label=name, **look)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.set_title(title, loc="left", fontsize=8.5)
        share = f"nearest is of the own set: {separations[-1]:.0%}"
        axis.set_title(share, loc="right", fontsize=6.5)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(len(labels), 4),
        frameon=False,
        fontsize=6.5,
        markerscale=1.5,
    )
    rows: list[pictures.Row] = [
        {
            "image": prediction.image,
            "dataset": prediction.dataset,
            "label": prediction.label,
            "visual_x": float(maps[0][i, 0]),
            "visual_y": float(maps[0][i, 1]),
            "text_x": float(maps[1][i, 0]),
            "text_y": float(maps[1][i, 1]),
            "visual_separation": separations[0],
            "text_separation": separations[1],
        }
        for i, prediction in enumerate(predictions)
    ]
    return figure, rows


def project(features: np.ndarray, *, seed: int) -> np.ndarray:
    """Places [N 2] by t-SNE, after principal components; the same for the same seed.

    Rows that are all the same have one place.
    """
    if not np.ptp(features, axis=0).any():
        return np.zeros((len(features), 2))
    count = min(_COMPONENTS, *features.shape)
    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    # One thread: so few rows gain nothing from more, and on a busy machine threads wait in turn.
    with threadpool_limits(1):
        reduced = PCA(count, random_state=seed).fit_transform(features.astype(np.float64))
        return TSNE(perplexity=perplexity, random_state=seed, init="pca").fit_transform(reduced)


def separation(features: np.ndarray, names: np.ndarray) -> float:
    """Share of rows whose nearest other row by cosine has the same name."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return float((names[similarity.argmax(1)] == names).mean())
