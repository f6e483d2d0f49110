"""What a run has done so far; survives `kill -9` at any moment.

The first line holds the settings; every other one an image that was made, or could not be, or one
judge's score of one image. Images are named by the key of their prompt and their number.
"""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxqa.errors import UserError
from jaxqa.selection.candidates import Candidate
from jaxqa.train.json_lines import JsonLines, read_json_lines

NAME = "journal.jsonl"

_IMAGE = ("path", "instruction", "seed", "start", "round", "error")


class Journal:
    """A run's journal, written by any thread. A context manager."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool):
        """Begin, or go on.

        Args:
          folder: of the run.
          settings: what images and scores depend on.
          resume: go on where an earlier run stopped.

        Raises:
          UserError: there is something already and `resume` is not set, or it has other settings.
        """
        path = folder / NAME
        if not resume and folder.exists() and any(folder.iterdir()):
            known = "holds a run; give --resume to go on" if path.exists() else "is not empty"
            raise UserError(f"{folder} {known}, or another --output: nothing is overwritten")
        earlier = list(read_json_lines(path))
        if earlier:
            _check(path, earlier[0].get("settings"), settings)
        self._lock = threading.Lock()
        self._images: dict[tuple[str, int], dict[str, Any]] = {}
        self._scores: dict[tuple[str, int], dict[str, Any]] = {}
        for line in earlier[1:]:
            self._remember(line)
        self._file = JsonLines(path)
        if not earlier:
            self._file.append([{"settings": dict(settings)}])

    def recall(self, key: str, number: int) -> Candidate | None:
        """A candidate of an earlier run with its scores; None if there was none.

        One that could not be made has no path, and is the caller's to try again.
        """
        image = self._images.get((key, number))
        if image is None:
            return None
        scores = dict(self._scores.get((key, number), {}))
        return Candidate(number=number, scores=scores, **image)

    def add_image(self, key: str, candidate: Candidate) -> None:
        """Record that an image was made, or could not be."""
        image = {name: getattr(candidate, name) for name in _IMAGE}
        self._write({"key": key, "number": candidate.number, "image": image})

    def add_score(self, key: str, number: int, judge: str, score: Mapping[str, Any]) -> None:
        """Record what one judge said."""
        self._write({"key": key, "number": number, "judge": judge, "score": dict(score)})

    def _write(self, line: dict[str, Any]) -> None:
        with self._lock:
            self._file.append([line])
            self._remember(line)

    def _remember(self, line: Mapping[str, Any]) -> None:
        place = line["key"], line["number"]
        if "image" in line:
            self._images[place] = dict(line["image"])
            self._scores.pop(place, None)  # of an image that was made anew
        else:
            self._scores.setdefault(place, {})[line["judge"]] = line["score"]

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _check(path: Path, earlier: Any, settings: Mapping[str, Any]) -> None:
    """UserError unless the settings are those of the earlier run."""
    known = earlier if isinstance(earlier, dict) else {}
    now = json.loads(json.dumps(dict(settings)))
    changed = [name for name in now if known.get(name) != now[name]]
    if changed:
        details = ", ".join(f"{name} {known.get(name)!r}, now {now[name]!r}" for name in changed)
        raise UserError(
            f"{path} was begun with other settings ({details}); repeat them, or give another "
            "--output"
        )
