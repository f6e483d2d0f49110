"""Published lists of image names: JSON, JSON lines, CSV, or one name per line."""

import csv
import hashlib
import io
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from jaxqa.data import tables
from jaxqa.errors import UserError

_KEYS = ("image", "img_path", "image_name", "img_name", "imageName", "name", "image_id")


def stem(name: str) -> str:
    """A file's name without folders and extension: lists and label files write both ways."""
    base = name.replace("\\", "/").rsplit("/", 1)[-1]
    head, dot, tail = base.rpartition(".")
    return head if dot and tail.lower() in _EXTENSIONS else base


_EXTENSIONS = frozenset("jpg jpeg png bmp tif tiff webp gif".split())


def digest(names: Collection[str]) -> str:
    """SHA-256 of the sorted base names, one per line: the same list whatever file it came in."""
    bases = sorted(PurePosixPath(name.replace("\\", "/")).name for name in names)
    return hashlib.sha256("\n".join(bases).encode()).hexdigest()


def read_names(path: Path) -> frozenset[str]:
    """All names that a list file holds.

    Raises:
        UserError: unreadable, empty, or of no known form.
    """
    readers = {".json": _from_json, ".jsonl": _from_json_lines, ".csv": _from_csv}
    names = frozenset(readers.get(path.suffix.lower(), _from_lines)(path))
    if not names:
        raise UserError(f"{path}: no names found")
    return names


def _from_lines(path: Path) -> Iterator[str]:
    for line in tables.read_text(path).split("\n"):
        if line.strip():
            yield line.split()[0]


def _from_csv(path: Path) -> Iterator[str]:
    rows = csv.reader(io.StringIO(tables.read_text(path), newline=""))
    header = [cell.strip() for cell in next(rows, [])]
    place = next((header.index(key) for key in _KEYS if key in header), 0)
    for row in rows:
        if row:
            yield row[place].strip()


def _from_json_lines(path: Path) -> Iterator[str]:
    for _, row in tables.read_json_lines(path, ()):
        yield _name(row, path)


def _from_json(path: Path) -> Iterator[str]:
    value = tables.read_json(path)
    if isinstance(value, dict) and isinstance(value.get("test"), list):
        value = value["test"]  # DeQA's split.json: {"train": [...], "test": [...]}
    if not isinstance(value, list):
        raise UserError(f"{path}: expected a JSON list of names, or of objects with {_KEYS}")
    for item in value:
        yield _name(item, path)


def _name(item: Any, path: Path) -> str:
    if isinstance(item, dict):
        item = next((item[key] for key in _KEYS if key in item), None)
    if isinstance(item, list) and len(item) == 1:
        item = item[0]
    if not isinstance(item, str):
        raise UserError(f"{path}: expected names, or objects with one of {', '.join(_KEYS)}")
    return item
