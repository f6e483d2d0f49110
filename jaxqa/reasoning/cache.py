"""Answers of an endpoint on disk, so that nothing is asked (and paid for) twice."""

import fcntl
import os
import threading
from pathlib import Path
from typing import Any

from jaxqa.errors import UserError
from jaxqa.train.json_lines import JsonLines, decode_line, explain_disk_errors


class ReplyCache:
    """Key -> JSON record in one append-only file; only the places of the records are in memory.

    A line cut by a kill is removed on opening, so its request is asked again. One process at a
    time has the file.
    """

    def __init__(self, path: Path):
        """Open or make the file.

        Raises:
          UserError: it cannot be written, or another process has it open.
        """
        self._places: dict[str, int] = {}
        self._lock = threading.Lock()
        with explain_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise UserError(
                f"answers file {path} is in use by another run; wait for it, or name another file"
            ) from error
        except OSError:
            pass  # a file system without locks
        self._writer = JsonLines(path)
        self._end = 0
        with path.open("rb") as lines:
            for line in lines:
                self._index(line)

    def __len__(self) -> int:
        """Number of answers."""
        return len(self._places)

    def get(self, key: str) -> dict[str, Any] | None:
        """The record under `key`, or None."""
        place = self._places.get(key)
        if place is None:
            return None
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(place)
            record = decode_line(file.readline())
        return None if record is None else record["reply"]

    def put(self, key: str, reply: dict[str, Any]) -> None:
        """Keep `reply`; on the disk (as far as a kill is concerned) before this returns.

        Raises:
          UserError: the disk is full or cannot be written.
        """
        with self._lock:
            self._writer.append([{"key": key, "reply": reply}])
            self._places[key] = self._end
            self._end = os.fstat(self._file).st_size

    def close(self) -> None:
        """Let the file go."""
        self._writer.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _index(self, line: bytes) -> None:
        record = decode_line(line)
        if record is not None and isinstance(record.get("reply"), dict):
            self._places[str(record.get("key"))] = self._end
        self._end += len(line)
