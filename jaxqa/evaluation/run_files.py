"""What a finished run left in its work directory, read for the report."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxqa.errors import UserError
from jaxqa.evaluation.evaluator import Prediction, predictions_path, read_predictions
from jaxqa.files import read_json
from jaxqa.train.json_lines import read_json_lines

Series = dict[str, list[tuple[int, float]]]
"""Metric name -> (step, value) in the order of the steps, values that are numbers only."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutGroup:
    """Some of the answers to one image that were sampled for one training step.

    Attributes:
      step: the update that learned from them.
      answers: lines of the rollout file, highest reward first.
    """

    step: int
    answers: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageRecord:
    """One stage: its row of the summary and what it logged, any of which may be empty.

    Attributes:
      predictions: of each tested source that has scores; its name is empty where there is only one.
    """

    name: str
    summary: dict[str, Any]
    series: Series
    predictions: dict[str, list[Prediction]]
    rollouts: list[RolloutGroup]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A work directory: `summary.json` must be there, everything else may be missing.

    Attributes:
      workdir: where the run is.
      config: the resolved configuration, empty if there is no `config.json`.
      summary: `summary.json`.
      stages: the stages in the order of the summary.
    """

    workdir: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    stages: list[StageRecord]


def read_run(workdir: Path | str) -> RunRecord:
    """Reads a work directory.

    Raises:
      UserError: no or a damaged `summary.json`; damaged configuration or predictions.
    """
    workdir = Path(workdir)
    if not (workdir / "summary.json").exists():
        raise UserError(
            f"{workdir} holds no summary.json: expected the work directory of a finished run; "
            "train it to the end first"
        )
    summary = read_json(workdir / "summary.json")
    stages = summary.get("stages")
    if not isinstance(stages, list) or not all(
        isinstance(stage, dict) and isinstance(stage.get("name"), str) for stage in stages
    ):
        raise UserError(f"{workdir / 'summary.json'}: expected a list of stages with names")
    has_config = (workdir / "config.json").exists()
    series = read_series(workdir / "metrics.jsonl")
    return RunRecord(
        workdir=workdir,
        config=read_json(workdir / "config.json") if has_config else {},
        summary=summary,
        stages=[
            StageRecord(
                name=stage["name"],
                summary=stage,
                series=series.get(stage["name"], {}),
                predictions=_read_predictions(workdir, stage),
                rollouts=sample_rollouts(workdir / "rollouts" / f"{stage['name']}.jsonl"),
            )
            for stage in stages
        ],
    )


def _read_predictions(workdir: Path, stage: Mapping[str, Any]) -> dict[str, list[Prediction]]:
    """Scores by source; empty where there are none."""
    name, several = stage["name"], stage.get("evaluations")
    files = {"": (name, stage.get("evaluation"))}
    if isinstance(several, dict):
        files = {source: (f"{name}.{source}", found) for source, found in several.items()}
    read = {
        source: read_predictions(predictions_path(workdir, file))
        for source, (file, found) in files.items()
        if not isinstance(found, dict) or "srcc" in found
    }
    return {source: predictions for source, predictions in read.items() if predictions}


def read_series(path: Path) -> dict[str, Series]:
    """Stage -> its series, from `metrics.jsonl`."""
    stages: dict[str, Series] = {}
    for line in read_json_lines(path):
        stage, step = line.pop("stage", None), line.pop("step", None)
        if not isinstance(stage, str) or not isinstance(step, int):
            continue
        for name, value in line.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                stages.setdefault(stage, {}).setdefault(name, []).append((step, float(value)))
    return stages


def sample_rollouts(path: Path, *, moments: int = 3, answers: int = 3) -> list[RolloutGroup]:
    """A few groups of one stage: evenly spaced steps from the first to the last.

    Of each step it takes the image with the lowest number, and of its answers those with the
    highest, the middle and the lowest reward. Reads the file twice and keeps little in memory.
    """
    steps = sorted({line["step"] for line in _rollouts(path)})
    chosen = {steps[index] for index in _evenly(len(steps), moments)}
    groups: dict[int, list[dict[str, Any]]] = {}
    for line in _rollouts(path):
        if line["step"] in chosen:
            group = groups.setdefault(line["step"], [])
            if group and line["example_id"] < group[0]["example_id"]:
                group.clear()
            if not group or line["example_id"] == group[0]["example_id"]:
                group.append(line)
    sampled = []
    for step in sorted(groups):
        ranked = sorted(groups[step], key=lambda line: line["reward"], reverse=True)
        picked = [ranked[index] for index in _evenly(len(ranked), answers)]
        sampled.append(RolloutGroup(step=step, answers=picked))
    return sampled


def _rollouts(path: Path) -> Iterator[dict[str, Any]]:
    """The lines that have what the report shows."""
    kinds = {"step": int, "example_id": int, "text": str, "reward": int | float}
    for line in read_json_lines(path):
        if all(isinstance(line.get(name), kind) for name, kind in kinds.items()):
            yield line


def _evenly(length: int, count: int) -> list[int]:
    """Up to `count` different indices from 0 to `length - 1`, ends included."""
    if length <= count:
        return list(range(length))
    return [round(index * (length - 1) / (count - 1)) for index in range(count)]
