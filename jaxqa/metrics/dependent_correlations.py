"""Williams' test: do two models' correlations with the same labels differ?

Steiger (1980), Tests for comparing elements of a correlation matrix, recommends it for two
correlations that share one variable. It assumes normal data; the paired bootstrap does not.
"""

import math

from scipy import stats


def williams(first: float, second: float, between: float, images: int) -> tuple[float, float]:
    """Student's t with `images` - 3 degrees of freedom, and its two-sided p-value.

    Args:
      first: correlation of the first model's scores with the labels.
      second: correlation of the second model's scores with the labels.
      between: correlation of the two models' scores.
      images: number of images, the same for all three.

    Returns:
      nan and nan for fewer than four images, an undefined correlation, or scores that are the same
      up to scale.
    """
    values = (first, second, between)
    undefined = float("nan"), float("nan")
    if images < 4 or not all(math.isfinite(value) and abs(value) <= 1 for value in values):
        return undefined
    determinant = 1 - first**2 - second**2 - between**2 + 2 * first * second * between
    mean = (first + second) / 2
    spread = 2 * determinant * (images - 1) / (images - 3) + mean**2 * (1 - between) ** 3
    if between >= 1 or spread <= 0:
        return undefined
    t = (first - second) * math.sqrt((images - 1) * (1 + between) / spread)
    return t, float(2 * stats.t.sf(abs(t), images - 3))
