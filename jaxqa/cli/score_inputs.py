"""Which images `score` is asked about: files, folders, patterns, lists and URLs."""

import csv
import dataclasses
import glob
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxqa.errors import UserError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".jp2", ".j2k", ".avif"),
)
"""Files of a folder that are taken for images."""

LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl")
"""Files that name images."""

STANDARD_INPUT = "-"

_PATHS = ("path", "image", "img_path", "image_path", "file", "filename", "name")
_PROMPTS = ("prompt", "text", "caption")


@dataclasses.dataclass(frozen=True)
class Item:
    """One image to score.

    Attributes:
      path: file or URL.
      prompt: text that it was made from, if any.
    """

    path: str
    prompt: str | None = None

    @property
    def key(self) -> str:
        """Names the item in files."""
        return self.path if self.prompt is None else f"{self.path}\0{self.prompt}"


def expand(inputs: Sequence[str], *, prompt: str | None) -> list[Item]:
    """All images, each once, in the order given; folders and patterns in alphabetic order.

    Args:
      inputs: files, folders, patterns, lists, URLs, or - for a list on standard input.
      prompt: text of images that have none of their own.

    Raises:
      UserError: one of them is not there, or names no image.
    """
    items: dict[Item, None] = {}
    for text in inputs:
        found = [
            item if item.prompt is not None else Item(item.path, prompt) for item in _expand(text)
        ]
        if not found:
            raise UserError(f"{text}: no image in it; expected files ending in {_suffixes()}")
        items.update(dict.fromkeys(found))
    return list(items)


def _expand(text: str) -> Iterable[Item]:
    if text == STANDARD_INPUT:
        return _plain(sys.stdin, Path())
    if "://" in text:
        return [Item(text)]
    path = Path(text)
    if path.is_dir():
        return _folder(path)
    if not path.exists() and glob.has_magic(text):
        return [
            Item(name) for name in sorted(glob.glob(text, recursive=True)) if os.path.isfile(name)
        ]
    if not path.exists():
        raise UserError(f"{text}: no such file, folder or pattern; check the path")
    if path.suffix.lower() in LIST_SUFFIXES:
        return _list(path)
    return [Item(text)]


def _folder(folder: Path) -> Iterator[Item]:
    """Images in a folder and in those below it; hidden ones are left out.

    Raises:
      UserError: a folder cannot be read, so that nobody knows what is missing.
    """
    for place, folders, files in os.walk(folder, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield Item(os.path.join(place, name))


def _unreadable(error: OSError) -> None:
    raise UserError(
        f"{error.filename}: cannot read the folder: {error.strerror}; give the folders or files "
        "that can be read"
    ) from error


def _list(path: Path) -> list[Item]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".txt":
                return list(_plain(file, path.parent))
            return list(_table(path, file))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; expected a list of images") from error
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: {error}; expected one JSON object for each line") from error
    except OSError as error:
        raise UserError(f"{path}: cannot read the list: {error.strerror}") from error


def _plain(lines: Iterable[str], folder: Path) -> Iterator[Item]:
    """One image a line; blank lines and those that begin with # are left out."""
    for line in lines:
        name = line.strip()
        if name and not name.startswith("#"):
            yield Item(_placed(name, folder))


def _table(path: Path, file: Any) -> Iterator[Item]:
    """Rows with a path and perhaps a prompt."""
    if path.suffix.lower() == ".jsonl":
        rows: Iterable[Any] = (json.loads(line) for line in file if line.strip())
    else:
        rows = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    for row in rows:
        if not isinstance(row, dict):
            raise UserError(f"{path}: expected one object for each line, with a path")
        name = next((row[column] for column in _PATHS if row.get(column)), None)
        if not isinstance(name, str):
            raise UserError(
                f"{path}: found {', '.join(map(str, row))}; expected a column {' or '.join(_PATHS)}"
            )
        prompt = next((row[column] for column in _PROMPTS if row.get(column)), None)
        yield Item(_placed(name, path.parent), None if prompt is None else str(prompt))


def _placed(name: str, folder: Path) -> str:
    """A list's path: as it stands if there is such a file, else beside the list if there is."""
    if "://" in name or os.path.exists(name) or not (folder / name).exists():
        return name
    return str(folder / name)


def _suffixes() -> str:
    return ", ".join(IMAGE_SUFFIXES)
