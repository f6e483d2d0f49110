"""From answers about test images to the numbers of a benchmark table."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxqa.data import registry
from jaxqa.errors import UserError
from jaxqa.metrics import correlations
from jaxqa.train.json_lines import read_json_lines, write_json_lines

METRICS = {
    "plcc": correlations.plcc,
    "srcc": correlations.srcc,
    "krcc": correlations.krcc,
    "rmse": correlations.rmse,
    "mae": correlations.mae,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model said about one test image, beside its label.

    Attributes:
      example_id: the example's number, stable over runs.
      image: path of the file, absolute or relative to the work directory.
      dataset: name in the registry, which knows the label's range.
      label: the truth, in the data set's own range.
      score: the model's number, or None where it gave none that counts.
      text: the whole completion.
      error: why there is no score; None if there is one.
      distortion: what was done to the image, where the data set tells.
      prompt: text that the image was made from, where the data set has one.
      answer: the number on the prompt's scale, where that is another than the label's.
      log_prob: of the completion's tokens, summed, where it is known.
      samples: the numbers of several answers to one image, on the prompt's scale; null where one
        gave none.
      spread: standard deviation of the samples, or of the distribution over scores.
      mass: probability of all admissible numbers before it was divided out, in expected mode.
      elements: element of the image's text -> score and truth, both in [0, 1], where a tool rates
        elements and the data set has them (EvalMuse-40K).
    """

    example_id: int
    image: str
    dataset: str
    label: float
    score: float | None
    text: str
    error: str | None = None
    distortion: str | None = None
    prompt: str | None = None
    answer: float | None = None
    log_prob: float | None = None
    samples: Sequence[float | None] | None = None
    spread: float | None = None
    mass: float | None = None
    elements: Mapping[str, Sequence[float]] | None = None

    def __post_init__(self):
        if (self.score is None) == (self.error is None):
            raise ValueError(
                f"example {self.example_id}: score {self.score!r} with error {self.error!r}; "
                "expected exactly one of the two"
            )
        if not math.isfinite(self.label):
            raise ValueError(f"example {self.example_id}: label {self.label} is not finite")


def judged_score(dataset: str, parsed: float | None) -> tuple[float | None, str | None]:
    """`(score, error)` of a parsed answer: a number outside the label range is not a score.

    Args:
      dataset: name in the registry.
      parsed: the number in the answer, None if the parser found none.

    Raises:
      UserError: the registry does not know the data set.
    """
    if parsed is None:
        return None, "no number could be parsed from the answer"
    low, high = registry.dataset_info(dataset).label_range
    if not low <= parsed <= high:  # also true of NaN
        return None, f"answer {parsed:g} lies outside the label range {low:g} to {high:g}"
    return float(parsed), None


def summarise(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Agreement of the scores with the labels of one data set.

    Images whose answer was not parsed, or lies outside the registry's range, are left out of the
    metrics and counted. A metric without a value (constant scores, fewer than two images) is None.

    Returns:
      `dataset`; `plcc`, `srcc`, `krcc`, `rmse`, `mae` (of the raw scores, no mapping); `n`, the
      number of images; `n_failed`, how many of them were left out.

    Raises:
      ValueError: no predictions, or predictions of several data sets.
      UserError: the registry does not know the data set.
    """
    datasets = sorted({prediction.dataset for prediction in predictions})
    if len(datasets) != 1:
        raise ValueError(f"expected predictions of one data set, found {datasets}")
    valid = [p for p in predictions if judged_score(p.dataset, p.score)[0] is not None]
    scores = np.array([p.score for p in valid], np.float64)
    labels = np.array([p.label for p in valid], np.float64)
    values = {name: _value(metric, scores, labels) for name, metric in METRICS.items()}
    failed = len(predictions) - len(valid)
    return {"dataset": datasets[0], **values, "n": len(predictions), "n_failed": failed}


def predictions_path(workdir: Path | str, stage: str) -> Path:
    """Where a stage's predictions are kept."""
    return Path(workdir) / "evaluations" / f"{stage}.jsonl"


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Writes one JSON line per image, whole or not at all.

    Raises:
      UserError: the disk is full or cannot be written.
    """
    write_json_lines(path, (dataclasses.asdict(prediction) for prediction in predictions))


def read_predictions(path: Path) -> list[Prediction]:
    """Reads what `write_predictions` wrote; an absent file has no predictions.

    Raises:
      UserError: a line lacks a field or holds one of a wrong kind.
    """
    lines = enumerate(read_json_lines(path), start=1)
    return [parse_prediction(line, f"{path}, line {number}") for number, line in lines]


def parse_prediction(line: Mapping[str, Any], place: str) -> Prediction:
    """The prediction in one line of a file, fields of other versions left out.

    Raises:
      UserError: it lacks a field or holds one of a wrong kind; begins with `place`.
    """
    fields = {field.name for field in dataclasses.fields(Prediction)}
    try:
        return Prediction(**{name: value for name, value in line.items() if name in fields})
    except (TypeError, ValueError) as error:
        raise UserError(f"{place}: {error}; evaluate the stage again") from error


def _value(metric: Any, scores: np.ndarray, labels: np.ndarray) -> float | None:
    if not len(scores):
        return None
    value = float(metric(scores, labels))
    return value if math.isfinite(value) else None
