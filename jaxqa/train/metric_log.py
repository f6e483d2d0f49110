"""The run's diary: `metrics.jsonl`, its TensorBoard mirror, and `rollouts/<stage>.jsonl`.

A line's `step` is the number of the update it tells of, counted from 1 within its stage. A
checkpoint at step N therefore knows all lines with `step <= N`, and a run restored from it must
forget the later ones, which it will write again: `cut_back(stage, N)`.

`metrics.jsonl` is the record; TensorBoard's files are a copy. They are made anew from it when a
run goes on, so curves are never doubled and no event that died in a buffer is missing.

Durability: see `jaxqa.train.json_lines`. Call `sync` before a checkpoint is saved; then no
checkpoint ever knows of a line that a power cut can lose.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorboard.summary import Writer

from jaxqa.train.json_lines import (
    JsonLines,
    explain_disk_errors,
    keep_json_lines,
    read_json_lines,
)

_STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class RolloutLog:
    """Appends sampled answers to `rollouts/<stage>.jsonl`, one line per completion."""

    def __init__(self, workdir: Path | str):
        """Opens nothing yet: a stage's file is made at its first line."""
        self._folder = Path(workdir) / "rollouts"
        self._files: dict[str, JsonLines] = {}

    def append(self, stage: str, step: int, records: Iterable[Mapping[str, Any]]) -> None:
        """Adds the completions of one step: all of them or, if the disk refuses, none.

        Args:
          records: `example_id`, `text`, `score` (None if unparsed), `reward`, `label` and
            whatever else is worth keeping; `stage` and `step` are put in front.

        Raises:
          UserError: the disk is full or cannot be written.
        """
        if stage not in self._files:
            self._files[stage] = JsonLines(self._path(stage))
        lines = [{"stage": stage, "step": step, **record} for record in records]
        self._files[stage].append(lines)

    def cut_back(self, stage: str, step: int) -> int:
        """Drops the stage's lines after `step`; returns how many went."""
        if stage in self._files:
            self._files.pop(stage).close()
        return keep_json_lines(self._path(stage), lambda line: line.get("step", 0) <= step)

    def sync(self) -> None:
        """Waits until every line is on the disk."""
        for file in self._files.values():
            file.sync()

    def close(self) -> None:
        """Syncs and closes all files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def __enter__(self) -> "RolloutLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _path(self, stage: str) -> Path:
        return self._folder / f"{_checked(stage)}.jsonl"


class MetricLog:
    """Appends one line of scalars per step to `metrics.jsonl` and mirrors it to TensorBoard.

    Only the first process of a run may hold one. Begin every stage with `cut_back(stage, N)`,
    N being the restored step or 0:

        with MetricLog(workdir) as log:
            log.cut_back("grpo", 0)
            log.rollouts.append("grpo", 1, records)
            log.append("grpo", 1, {"loss": 0.2, "reward": 0.4})

    Attributes:
      rollouts: the run's `RolloutLog`, cut back, synced and closed together with the metrics.
    """

    def __init__(self, workdir: Path | str, resume_at: tuple[str, int] | None = None):
        """Opens the log and removes a half-written last line.

        Args:
          workdir: the run's directory; made if missing.
          resume_at: (stage, step) of the restored checkpoint: `cut_back` to it at once.

        Raises:
          UserError: the directory cannot be written.
        """
        self._workdir = Path(workdir)
        self._path = self._workdir / "metrics.jsonl"
        self.rollouts = RolloutLog(self._workdir)
        self._mirror = TensorBoardMirror(self._workdir / "tensorboard")
        self._open()
        if resume_at is not None:
            self.cut_back(*resume_at)

    def append(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Adds `{"stage", "step", **metrics}`; values that are not finite become null.

        A second line for the same step is welcome if it holds other metrics.

        Raises:
          ValueError: the step, or a metric of the step, is in the log already.
          UserError: the disk is full or cannot be written.
        """
        self._check_new(_checked(stage), step, metrics)
        line = {"stage": stage, "step": step, **metrics}
        self._mirror.catch_up(self._path)
        self._file.append([line])
        self._mirror.write(line)
        last_step, names = self._last.get(stage, (step, set()))
        self._last[stage] = (step, names | set(metrics) if step == last_step else set(metrics))

    def cut_back(self, stage: str, step: int) -> int:
        """Forgets what came after update `step` of `stage`, here and in the stage's rollouts.

        Stages run one after the other, so all of the stages that began after it go as well.
        Step 0 forgets the whole stage. Returns the number of lines dropped.
        """
        later = _stages_after(_checked(stage), list(self._last))
        self._file.close()
        dropped = keep_json_lines(self._path, lambda line: _is_known(line, stage, step, later))
        for name, last in [(stage, step), *((name, 0) for name in later)]:
            dropped += self.rollouts.cut_back(name, last)
        self._mirror.forget()
        self._open()
        return dropped

    def sync(self) -> None:
        """Waits until every line is on the disk; call it before a checkpoint is saved."""
        self._file.sync()
        self.rollouts.sync()
        self._mirror.flush()

    def close(self) -> None:
        """Syncs and closes all files."""
        self._file.close()
        self.rollouts.close()
        self._mirror.close()

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        self._file = JsonLines(self._path)
        # Per stage, in the order in which they began: the last step and its metrics.
        self._last: dict[str, tuple[int, set[str]]] = {}
        for line in read_json_lines(self._path):
            stage, step = line.get("stage", ""), line.get("step", 0)
            last_step, names = self._last.get(stage, (step, set()))
            self._last[stage] = (step, names | set(line) if step == last_step else set(line))

    def _check_new(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        last_step, names = self._last.get(stage, (0, set()))
        doubled = sorted(names & set(metrics)) if step == last_step else []
        if step < 1 or step < last_step or doubled:
            raise ValueError(
                f"step {step} of stage {stage!r} with {doubled or sorted(metrics)} cannot follow "
                f"step {last_step} in {self._path}: steps count up from 1 and a metric is logged "
                "once per step; call cut_back(stage, step) with the restored step first"
            )


class NoRolloutLog(RolloutLog):
    """That of every process but the first: it writes nothing."""

    def __init__(self):
        super().__init__(Path())

    def append(self, stage: str, step: int, records: Iterable[Mapping[str, Any]]) -> None:
        """Leaves the records to the first process."""

    def cut_back(self, stage: str, step: int) -> int:
        """Has no lines to drop."""
        return 0


class NoMetricLog:
    """That of every process but the first: it writes nothing.

    Attributes:
      rollouts: a log that writes nothing either.
    """

    def __init__(self):
        self.rollouts = NoRolloutLog()

    def append(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Leaves the metrics to the first process."""

    def cut_back(self, stage: str, step: int) -> int:
        """Has no lines to drop."""
        return 0

    def sync(self) -> None:
        """Has nothing to wait for."""

    def __enter__(self) -> "NoMetricLog":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class TensorBoardMirror:
    """Scalars of `metrics.jsonl` as TensorBoard events, one TensorBoard run per stage."""

    def __init__(self, folder: Path):
        """Writes nothing before the first line."""
        self._folder = folder
        self._writers: dict[str, Writer] = {}
        self._is_current = False

    def catch_up(self, metrics: Path) -> None:
        """Makes the events anew from `metrics`, once after the start and after every `forget`."""
        if self._is_current:
            return
        self.forget()
        self._is_current = True
        for line in read_json_lines(metrics):
            self.write(line)

    def write(self, line: Mapping[str, Any]) -> None:
        """Adds the numbers of one line."""
        stage = _checked(line["stage"])
        with explain_disk_errors(self._folder):
            if stage not in self._writers:
                self._writers[stage] = Writer(str(self._folder / stage))
            for name, value in line.items():
                if name not in ("stage", "step") and _is_number(value):
                    self._writers[stage].add_scalar(name, float(value), line["step"])

    def forget(self) -> None:
        """Deletes the event files; the next `catch_up` writes them again."""
        self.close()
        with explain_disk_errors(self._folder):
            for file in self._folder.glob("*/events.out.tfevents.*"):
                file.unlink()
        self._is_current = False

    def flush(self) -> None:
        """Hands buffered events to the file system."""
        with explain_disk_errors(self._folder):
            for writer in self._writers.values():
                writer.flush()

    def close(self) -> None:
        """Flushes and closes the event files."""
        with explain_disk_errors(self._folder):
            for writer in self._writers.values():
                writer.close()
        self._writers.clear()


def _is_number(value: Any) -> bool:
    return not isinstance(value, str | bool | list | dict) and value is not None


def _is_known(line: Mapping[str, Any], stage: str, step: int, later: list[str]) -> bool:
    if line.get("stage") == stage:
        return line.get("step", 0) <= step
    return line.get("stage") not in later


def _stages_after(stage: str, begun: list[str]) -> list[str]:
    return begun[begun.index(stage) + 1 :] if stage in begun else []


def _checked(stage: str) -> str:
    if not _STAGE_NAME.fullmatch(stage):
        raise ValueError(
            f"stage name {stage!r} cannot name a file: expected letters, digits, '_', '-', '.'"
        )
    return stage
