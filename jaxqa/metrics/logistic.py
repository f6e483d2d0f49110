"""Logistic mappings from predictions to labels, fitted as the field's evaluators fit them.

Least squares from a fixed start, so a fit is the same wherever it runs. A fit that the data do not
determine says why and maps to nan; it never falls back to the raw values in silence.
"""

import dataclasses
import warnings
from collections.abc import Callable

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import expit

from jaxqa.typing import Float, Shaped

Vector = Shaped[np.ndarray, "N"]
MAX_EVALUATIONS = 10_000


@dataclasses.dataclass(frozen=True)
class Form:
    """A family of curves: its formula `f(x, *parameters)` and the parameters a fit starts from."""

    formula: Callable[..., np.ndarray]
    start: Callable[[np.ndarray, np.ndarray], list[float]]


def four_parameters(
    x: np.ndarray, top: float, bottom: float, centre: float, width: float
) -> np.ndarray:
    """(b1 - b2) / (1 + exp(-(x - b3) / b4)) + b2, as in DeQA-Score, Q-Align and pyiqa."""
    return (top - bottom) * _rise(x, centre, width) + bottom


def four_parameters_abs(
    x: np.ndarray, top: float, bottom: float, centre: float, width: float
) -> np.ndarray:
    """The same with |b4|, as in EvalMuse-40K's challenge and the video-quality evaluators."""
    return four_parameters(x, top, bottom, centre, abs(width))


def five_parameters(
    x: np.ndarray, height: float, slope: float, centre: float, linear: float, offset: float
) -> np.ndarray:
    """b1 (1/2 - 1 / (1 + exp(b2 (x - b3)))) + b4 x + b5, as VQEG, DBCNN and pyiqa write it."""
    return height * (0.5 - expit(-slope * (x - centre))) + linear * x + offset


FORMS = {
    "logistic4": Form(four_parameters, lambda x, y: [y.max(), y.min(), x.mean(), x.std() / 4]),
    "logistic4_abs": Form(
        four_parameters_abs, lambda x, y: [y.max(), y.min(), x.mean(), x.std() / 4]
    ),
    "logistic5": Form(five_parameters, lambda x, y: [10.0, 0.0, y.mean(), 0.1, 0.1]),
}
"""Name -> form with the starting point that the named evaluators use."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogisticFit:
    """A fitted curve.

    Attributes:
      form: key of `FORMS`.
      parameters: of the formula; nan where there is no fit.
      error: why there is no fit, or None.
    """

    form: str
    parameters: tuple[float, ...]
    error: str | None = None

    def apply(self, predictions: Vector) -> Float[np.ndarray, "N"]:
        """Map predictions to the labels' scale; nan everywhere if there is no fit."""
        values = np.asarray(predictions, np.float64)
        if self.error is not None:
            return np.full(values.shape, np.nan)
        return FORMS[self.form].formula(values, *self.parameters)


def fit(predictions: Vector, labels: Vector, form: str) -> LogisticFit:
    """Fit a form of `FORMS` by least squares (Levenberg-Marquardt, at most 10,000 evaluations)."""
    x, y = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    if x.shape != y.shape:
        raise ValueError(f"{len(x)} predictions and {len(y)} labels, expected as many of each")
    start = FORMS[form].start(x, y) if len(x) else [np.nan] * 4
    error = _undetermined(x, y, len(start))
    found = np.full(len(start), np.nan)
    if error is None:
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore", OptimizeWarning)  # of a covariance nobody reads
                found, _ = curve_fit(FORMS[form].formula, x, y, p0=start, maxfev=MAX_EVALUATIONS)
        except RuntimeError:
            error = f"the {form} fit did not converge in {MAX_EVALUATIONS} evaluations"
    return LogisticFit(form=form, parameters=tuple(map(float, found)), error=error)


def _undetermined(x: np.ndarray, y: np.ndarray, count: int) -> str | None:
    """Why the data cannot determine `count` parameters, or None."""
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return "values that are not finite"
    if len(x) < count:
        return f"{count} parameters need at least {count} images, found {len(x)}"
    for name, values in (("predictions", x), ("labels", y)):
        if np.ptp(values) == 0:
            return f"all {name} are the same"
    return None


def _rise(x: np.ndarray, centre: float, width: float) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return expit((x - centre) / width)
