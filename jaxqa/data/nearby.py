"""Where files lie that were looked for a level or two off: the hints of error messages."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

_LEVELS = 2
_MOST_FOLDERS = 200  # looked into, per level


def around(folder: Path) -> Iterator[Path]:
    """The folders up to two levels above `folder`, then those up to two levels below it."""
    yield from folder.absolute().parents[:_LEVELS]
    yield from _below(folder)


def image_hint(file: str, folder: Path, homes: Sequence[Path]) -> str:
    """What to say of an image that none of `homes` holds; empty if it is nowhere near.

    Args:
        file: The image as the label file writes it.
        folder: The data set's folder.
        homes: Where its images were looked for.
    """
    for place in dict.fromkeys((*_below(folder), *(f for h in homes for f in _below(h)), folder)):
        for name in dict.fromkeys((file, PurePosixPath(file).name)):
            if (place / name).is_file():
                return f"; {name} lies in {place}: move the images to {homes[0]}"
    return ""


def _below(folder: Path) -> Iterator[Path]:
    level = [folder]
    for _ in range(_LEVELS):
        level = [child for parent in level[:_MOST_FOLDERS] for child in _children(parent)]
        yield from level


def _children(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir())[:_MOST_FOLDERS]
    except OSError:  # no such folder, or not to be read: there is nothing to hint at
        return []
