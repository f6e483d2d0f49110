"""What TATAR's published evaluation script does, to reproduce its numbers and for nothing else.

It guesses each number's scale from its value, so a quality label of 4.17 on 0..100 counts as one on
1..5 and becomes 79: a perfect scorer then reaches an SRCC of 0.988 on SPAQ. It ranks without
sharing ranks among ties, so the order of the file matters.
"""

import numpy as np

from jaxqa.data import registry
from jaxqa.typing import Float

Vector = Float[np.ndarray, "N"]


def rescale(answers: Vector, labels: Vector, task: str, dataset: str) -> tuple[Vector, Vector]:
    """Scores and labels from 0 to 100, each by its own value."""
    is_quality = task == "quality"
    listed = listed_labels(labels, dataset)
    return (
        predictions_to_hundred(answers, is_quality=is_quality),
        labels_to_hundred(listed, is_quality=is_quality),
    )


def listed_labels(values: Vector, dataset: str) -> Vector:
    """Labels as its lists of images hold them: PIPAL's Elo ratings moved to 1..5, all else as is.

    The lists' rule is 1 + 4 (Elo - lowest) / (highest - lowest) over the published data set.
    """
    published = registry.DATASETS["pipal"].measured_range
    if dataset != "pipal" or published is None:
        return values
    low, high = published
    return 1 + 4 * (np.asarray(values, np.float64) - low) / (high - low)


def labels_to_hundred(values: Vector, *, is_quality: bool) -> Vector:
    """Its `gt_to_100`: 0 to 100 from whatever scale the value seems to be on.

    Quality: [0, 1] times 100, (1, 5] stretched to 0..100. Aesthetics: [0, 10] times 10. All else is
    clipped to [0, 100].
    """
    values = np.asarray(values, np.float64)
    clipped = np.clip(values, 0.0, 100.0)
    if is_quality:
        stretched = np.where((values > 1) & (values <= 5), (values - 1) / 4 * 100, clipped)
        return np.where((values >= 0) & (values <= 1), values * 100, stretched)
    return np.where((values >= 0) & (values <= 10), values * 10, clipped)


def predictions_to_hundred(values: Vector, *, is_quality: bool) -> Vector:
    """Its `pred_to_100`: the same, but [0, 1] is multiplied by 100 for aesthetics too."""
    values = np.asarray(values, np.float64)
    tiny = (values >= 0) & (values <= 1)
    return np.where(tiny, values * 100, labels_to_hundred(values, is_quality=is_quality))


def ranks(values: Float[np.ndarray, "*R N"]) -> Float[np.ndarray, "*R N"]:
    """Its ranks: positions in sorted order, ties in the order of the file."""
    order = np.argsort(values, axis=-1, kind="stable")
    return np.argsort(order, axis=-1, kind="stable").astype(np.float64)
