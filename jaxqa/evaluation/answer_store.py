"""What models have answered so far: one JSON line per image, which a killed evaluation keeps.

A file begins with a line of settings, so that answers made in another way are never taken for
these. Processes that share the work write files of their own, which are read together.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxqa.errors import UserError
from jaxqa.evaluation.evaluator import Prediction, parse_prediction
from jaxqa.train.json_lines import JsonLines, read_json_lines

Settings = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """Which share of the images this process answers: every `count`-th from number `index`."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From `I/N`, I from 0 to N - 1; UserError says so."""
        index, _, count = text.partition("/")
        if index.isdecimal() and count.isdecimal() and int(index) < int(count):
            return cls(index=int(index), count=int(count))
        raise UserError(f"--shard={text}: expected I/N with I from 0 to N - 1, for example 0/4")


WHOLE = Shard()


class AnswerStore:
    """Answers of one model to one selection, in a folder."""

    def __init__(self, folder: Path, title: str, settings: Settings, shard: Shard = WHOLE):
        """Look at what is there.

        Raises:
          UserError: answers of other settings, or damaged ones.
        """
        self._stem = re.sub(r"[^\w.+-]+", ".", title)
        self._folder = folder
        self._settings = settings
        self._shard = shard
        self.answers: dict[int, Prediction] = {}
        self._file: JsonLines | None = None
        self.refresh()

    def refresh(self) -> None:
        """Look again: the processes that share the work have answered meanwhile.

        Raises:
          UserError: answers of other settings, or damaged ones.
        """
        for path in self._paths():
            self.answers.update({p.example_id: p for p in self._read(path)})

    @property
    def path(self) -> Path:
        """The file that this process writes."""
        share = self._shard
        part = f".{share.index}-of-{share.count}" if share.count > 1 else ""
        return self._folder / f"{self._stem}{part}.jsonl"

    def append(self, prediction: Prediction) -> None:
        """Keep one answer, at once.

        Raises:
          UserError: the disk is full or cannot be written.
        """
        if self._file is None:
            is_new = not any(read_json_lines(self.path))
            self._file = JsonLines(self.path)
            if is_new:
                self._file.append([{"settings": dict(self._settings)}])
        self._file.append([dataclasses.asdict(prediction)])
        self.answers[prediction.example_id] = prediction

    def close(self) -> None:
        """Wait for the disk; a later `append` would open the file again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _paths(self) -> Iterator[Path]:
        share = re.compile(re.escape(self._stem) + r"(\.\d+-of-\d+)?\.jsonl")
        if self._folder.is_dir():
            yield from sorted(p for p in self._folder.iterdir() if share.fullmatch(p.name))

    def _read(self, path: Path) -> Iterator[Prediction]:
        for number, line in enumerate(read_json_lines(path), start=1):
            if number == 1:
                self._check(path, line.get("settings"))
            else:
                yield parse_prediction(line, f"{path}, line {number}")

    def _check(self, path: Path, found: Any) -> None:
        if not isinstance(found, dict):
            raise UserError(f"{path}: its first line holds no settings; move the file away")
        wanted = dict(self._settings)
        differing = [k for k in {**found, **wanted} if found.get(k) != wanted.get(k)]
        if differing:
            changes = ", ".join(f"{k} {found.get(k)!r}, now {wanted.get(k)!r}" for k in differing)
            raise UserError(
                f"{path} holds answers made with other settings ({changes}); give another "
                "--answers directory, or remove the file to answer anew"
            )


def read_answers(path: Path) -> tuple[dict[str, Any], list[Prediction]]:
    """Settings and answers of one file, of an evaluation or of a training run's test.

    The latter has no settings.

    Raises:
      UserError: no such file, no answers, or damaged ones.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected the answers of an evaluation (JSON lines)")
    settings: dict[str, Any] = {}
    predictions = []
    for number, line in enumerate(read_json_lines(path), start=1):
        if number == 1 and isinstance(line.get("settings"), dict):
            settings = line["settings"]
        else:
            predictions.append(parse_prediction(line, f"{path}, line {number}"))
    if not predictions:
        raise UserError(f"{path} holds no answers; let `jaxqa evaluate` finish first")
    return settings, predictions
