"""The work directory of a run: who wrote it, what is done, and nothing half-written."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxqa import files, processes
from jaxqa.configuration import to_dict
from jaxqa.errors import UserError
from jaxqa.reasoning.expert import REACHED_BY
from jaxqa.stages.config import RunConfig
from jaxqa.train import json_lines

MIN_FREE_BYTES = 256 * 2**20
"""Enough for the demo's data, checkpoints and logs; larger models check again when they save."""

_LOCK = ".lock"

_ENTRY_KEYS = frozenset({"name", "steps", "seconds", "evaluation"})


class WorkDir:
    """Paths and small records of one run. Made by `open_workdir`."""

    def __init__(self, root: Path):
        self.root = root
        self.export = root / "export"
        self.report = root / "report" / "index.html"

    def checkpoints(self, stage: str) -> Path:
        """Folder of a stage's checkpoints."""
        return self.root / "checkpoints" / stage

    def evaluation(self, stage: str) -> Path:
        """Predictions of the test after a stage."""
        return self.root / "evaluations" / f"{stage}.jsonl"

    def rationales(self, stage: str) -> Path:
        """What a stage wrote about training images."""
        return self.root / "rationales" / f"{stage}.jsonl"

    def artifact(self, stage: str) -> Path:
        """The scorer that a stage distilled."""
        return self.root / "artifacts" / stage

    @property
    def adapter(self) -> Path:
        """Adapters of the exported model, for PEFT."""
        return self.root / "adapter"

    def claim(self, config: RunConfig) -> None:
        """Write the resolved config, which from now on is the only one that may go on here."""
        if not (self.root / "config.json").exists():
            _replace_json(self.root / "config.json", _resolved(config))

    def read_summary(self) -> dict[str, Any]:
        """Summary so far; a stage that is listed in it is finished.

        Raises:
          UserError: the file holds something else.
        """
        path = self.root / "summary.json"
        if not path.exists():
            return {"stages": [], "seconds": 0.0}
        summary = files.read_json(path)
        stages = summary.get("stages")
        if not isinstance(stages, list) or not all(
            isinstance(entry, dict) and _ENTRY_KEYS <= entry.keys() for entry in stages
        ):
            raise UserError(
                f"{path} is not the summary of a run (expected a list of stages, each with "
                f"{', '.join(sorted(_ENTRY_KEYS))}); restore it or use a new --workdir"
            )
        return summary

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replace the summary atomically."""
        _replace_json(self.root / "summary.json", summary)


@contextlib.contextmanager
def open_workdir(path: Path, config: RunConfig) -> Iterator[WorkDir]:
    """The work directory, locked for this run; a new one is empty until `claim`.

    Raises:
      UserError: it cannot be written, its disk is full, another run has it open, another config
        wrote it (the differing keys are named), or the run's processes do not share it.
    """
    lock = None
    try:
        with processes.together():
            if processes.is_first():
                lock = _open_lock(path)
                _take(lock, path)
                _check_owner(path / "config.json", config)
                _remove_remains(path)
        with processes.together():
            if not (path / _LOCK).exists():
                raise UserError(
                    f"work directory {path} is not the one of the first process; give one that "
                    "all hosts share (a network file system)"
                )
        yield WorkDir(path)
    finally:
        if lock is not None:
            os.close(lock)


def _open_lock(path: Path) -> int:
    try:
        _check_free_space(path)
        path.mkdir(parents=True, exist_ok=True)
        return os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(
            f"work directory {path} cannot be written: {error.strerror}; choose another --workdir"
        ) from error


def _check_free_space(path: Path) -> None:
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE_BYTES:
        raise UserError(
            f"work directory {path}: {free // 2**20} MiB free, at least "
            f"{MIN_FREE_BYTES // 2**20} MiB needed; free some space or choose another --workdir"
        )


def _take(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            return  # a file system without locks
        raise UserError(f"work directory {path} is in use by another run; wait for it") from error


def _remove_remains(path: Path) -> None:
    """Remove what a killed run was writing; only where a run has been."""
    if (path / "config.json").exists():
        for entry in path.glob(".*.tmp"):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _resolved(config: RunConfig) -> dict[str, Any]:
    """The config as JSON gives it back."""
    return json.loads(json.dumps(to_dict(config)))


def _check_owner(path: Path, config: RunConfig) -> None:
    """Raise UserError if another config claimed the directory.

    How an expert at an endpoint is reached may be another each time: servers move and tire.
    """
    if not path.exists():
        return
    written, resolved = files.read_json(path), _resolved(config)
    if _lasting(written) != _lasting(resolved):
        names = sorted(_differences(written, resolved))
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise UserError(
            f"work directory {path.parent} was written by another config; they differ in {shown}; "
            "use the same options to go on, or a new --workdir"
        )


def _lasting(value: Any) -> Any:
    """A config without how its experts are reached."""
    if not isinstance(value, dict):
        return value
    left = {key: _lasting(part) for key, part in value.items()}
    if value.get("endpoint"):
        left |= dict.fromkeys(REACHED_BY)
        left["endpoint"] = True
    return left


def _differences(old: Any, new: Any, at: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from _differences(old.get(key), new.get(key), f"{at}.{key}" if at else key)
    elif old != new:
        yield f"{at} ({old!r} before, {new!r} now)"


def _replace_json(path: Path, value: Any) -> None:
    with json_lines.replacing(path) as file:
        file.write((json.dumps(value, indent=2) + "\n").encode())
