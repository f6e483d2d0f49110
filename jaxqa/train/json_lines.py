"""Append-only files of JSON lines that survive `kill -9`.

Every append is handed to the kernel before it returns, so a killed process loses nothing; only
`sync` waits for the disk, so a power cut can lose lines after the last `sync`. Half a line at the
end of a file, the mark of a kill or a full disk during an append, is removed when the file is
opened and skipped when it is read.
"""

import contextlib
import json
import math
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxqa.errors import UserError

Record = dict[str, Any]


class JsonLines:
    """One growing file of JSON objects, one per line; a context manager."""

    def __init__(self, path: Path):
        """Opens or makes `path` (and its folder), and removes a half-written last line.

        Raises:
          UserError: the file cannot be opened for writing.
        """
        self._path = path
        with explain_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_half_line(path)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Writes all of `records`, or none of them if the disk refuses.

        Raises:
          UserError: the disk is full or cannot be written.
        """
        data = b"".join(encode_line(record) for record in records)
        with explain_disk_errors(self._path):
            size = os.fstat(self._file).st_size
            try:
                _write_all(self._file, data)
            except OSError:
                os.ftruncate(self._file, size)
                raise

    def sync(self) -> None:
        """Waits until everything appended so far is on the disk."""
        with explain_disk_errors(self._path):
            os.fsync(self._file)

    def close(self) -> None:
        """Syncs and closes the file; a second call does nothing."""
        if self._file >= 0:
            self.sync()
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_json_lines(path: Path) -> Iterator[Record]:
    """Yields the objects of `path` in order; nothing if there is no such file.

    Lines that are not a whole JSON object are skipped: after a power cut the lines written since
    the last `sync` may be damaged.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            record = decode_line(line)
            if record is not None:
                yield record


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replaces `path` by `records` in one atomic step: readers see the old file or the new one.

    Raises:
      UserError: the disk is full or cannot be written; the old file is untouched.
    """
    with replacing(path) as file:
        for record in records:
            file.write(encode_line(record))


def keep_json_lines(path: Path, keep: Callable[[Record], bool]) -> int:
    """Atomically drops every line that is damaged or for which `keep` is false; says how many."""
    dropped = 0
    if not path.exists():
        return dropped
    with path.open("rb") as file:
        for line in file:
            record = decode_line(line)
            dropped += record is None or not keep(record)
    if dropped:
        write_json_lines(path, (record for record in read_json_lines(path) if keep(record)))
    return dropped


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Any]:
    """A binary file that takes the place of `path`, synced, when the block ends without an error.

    Raises:
      UserError: the disk is full or cannot be written.
    """
    # Named by chance: processes on several machines may finish the same file at the same time.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with explain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def encode_line(record: Mapping[str, Any]) -> bytes:
    """`record` as one line of strict JSON: NaN and infinities become null, NumPy scalars numbers.

    Raises:
      TypeError: a value is neither a JSON value nor a scalar array.
    """
    text = json.dumps(_strict(dict(record)), ensure_ascii=False, allow_nan=False)
    # A lone surrogate becomes its JSON escape, so that every Python string survives the trip.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def decode_line(line: bytes) -> Record | None:
    """The JSON object in `line`, or None if it is not a whole one."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biuf":
        return _strict(np.asarray(value).item())
    raise TypeError(f"cannot write {value!r} as JSON: expected a number, text, list or dict")


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _remove_half_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        whole = end
        while whole:
            start = max(0, whole - 65536)
            file.seek(start)
            newline = file.read(whole - start).rfind(b"\n")
            if newline >= 0:
                whole = start + newline + 1
                break
            whole = start
        if whole < end:
            file.truncate(whole)


@contextlib.contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Turns an `OSError` of the block into a `UserError` that names `path` and what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; "
            "give a work directory that is writable and on a disk with free space"
        ) from error
