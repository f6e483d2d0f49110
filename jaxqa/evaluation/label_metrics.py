"""Accuracy of answers that are names: degradations and comparisons."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxqa.rewards.labels import CHOICES, DISTORTION_CLASSES, SEVERITIES
from jaxqa.rewards.parsing import ParsedAnswer
from jaxqa.train.json_lines import write_json_lines

LABELS = {"degradation": ("distortion_class", "severity"), "comparison": ("choice",)}
"""The labels of each task without a score."""

METRICS = {
    "distortion_class": "class_accuracy",
    "severity": "severity_accuracy",
    "choice": "choice_accuracy",
}
"""Label -> name of its metric."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedPrediction:
    """What the model said about one test example, beside the truth.

    Attributes:
      example_id: the example's number, stable over runs.
      image: path of the (first) file, absolute or relative to the work directory.
      dataset: name in the registry.
      wanted: the right labels.
      answered: the labels in the answer; None where none of the known ones could be read.
      text: the whole completion.
      error: why the example could not be asked about; None if it could.
    """

    example_id: int
    image: str
    dataset: str
    wanted: Mapping[str, str]
    answered: Mapping[str, str | None]
    text: str
    error: str | None = None


def wanted(task: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Of an example's labels those that `task` asks for."""
    return {key: labels[key] for key in LABELS[task] if key in labels}


def answered(task: str, answer: ParsedAnswer) -> dict[str, str | None]:
    """The labels that `task` asks for, as an answer names them."""
    found = {
        "distortion_class": _name(DISTORTION_CLASSES, answer.class_id),
        "severity": _name(SEVERITIES, answer.severity_id),
        "choice": _name(CHOICES, answer.choice_id),
    }
    return {key: found[key] for key in LABELS[task]}


def summarise(predictions: Sequence[NamedPrediction]) -> dict[str, Any]:
    """Share of right answers for each label, over the examples that have it.

    An answer that could not be read is a wrong one. A label that no example has is None.

    Returns:
      `dataset`; `class_accuracy` and `severity_accuracy`, or `choice_accuracy`; `n`, the number of
      examples; `n_failed`, how many of them have an answer in which a label could not be read.

    Raises:
      ValueError: no predictions, or of several data sets.
    """
    datasets = sorted({prediction.dataset for prediction in predictions})
    if len(datasets) != 1:
        raise ValueError(f"expected predictions of one data set, found {datasets}")
    keys = predictions[0].answered
    failed = sum(None in prediction.answered.values() for prediction in predictions)
    accuracies = {METRICS[key]: _accuracy(key, predictions) for key in keys}
    return {"dataset": datasets[0], **accuracies, "n": len(predictions), "n_failed": failed}


def write_predictions(path: Path, predictions: Iterable[NamedPrediction]) -> None:
    """Writes one JSON line per example, whole or not at all.

    Raises:
      UserError: the disk is full or cannot be written.
    """
    write_json_lines(path, (dataclasses.asdict(prediction) for prediction in predictions))


def _accuracy(key: str, predictions: Sequence[NamedPrediction]) -> float | None:
    asked = [prediction for prediction in predictions if key in prediction.wanted]
    if not asked:
        return None
    return sum(p.answered[key] == p.wanted[key] for p in asked) / len(asked)


def _name(names: Sequence[str], place: int) -> str | None:
    return names[place] if place >= 0 else None
