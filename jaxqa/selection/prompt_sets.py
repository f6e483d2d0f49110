"""Prompts, and the images that were made from them: the layouts that `best-of-n` reads.

| layout | what it looks like |
|---|---|
| GenEval's | `DIR/00000/metadata.jsonl` (an object with `prompt`) and `DIR/00000/samples/*.png` |
| a folder per prompt | `DIR/NAME/*.png`; the prompt is in `DIR/NAME/prompt.txt`, or is `NAME` |
| T2I-CompBench's | `DIR/<prompt>_<000000>.png`, six digits at the end; or `DIR/samples/...` |
| a table | `.csv`, `.tsv` or `.jsonl` with the columns `prompt` and `path` |

Prompts to make images from are one a line (`.txt`), or objects with a `prompt` (`.jsonl`, such as
GenEval's evaluation_metadata.jsonl), or a column `prompt` (`.csv`, `.tsv`).
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxqa.data import tables
from jaxqa.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm")
"""Files of a folder that are taken for images."""

_NUMBERED = re.compile(r"(?P<prompt>.+)_(?P<number>\d{6})", re.DOTALL)
_TABLES = {".csv": ",", ".tsv": "\t"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptSet:
    """One prompt.

    Attributes:
      key: names its folder in the output; digits, as GenEval's tools expect.
      prompt: the text.
      metadata: what else is known of it, such as GenEval's line; it has the prompt too.
      images: paths of images that were made from it; empty where they are still to be made.
    """

    key: str
    prompt: str
    metadata: Mapping[str, Any]
    images: tuple[str, ...] = ()


def read(source: Path, *, images: bool) -> list[PromptSet]:
    """Read a file or a folder; see the module's table.

    Args:
      source: the file or folder.
      images: whether images are read, or prompts to make some from.

    Raises:
      UserError: nothing of the kind is there.
    """
    if source.is_dir():
        if not images:
            raise UserError(
                f"{source} is a folder; to make images, give a file of prompts (.txt, .jsonl, .csv)"
            )
        return read_folder(source)
    found = _table_with_images(source) if images else read_prompts(source)
    if not found:
        raise UserError(f"{source}: no prompt in it")
    return found


def read_prompts(source: Path) -> list[PromptSet]:
    """The prompts of a file, in its order; a prompt that is there twice counts twice."""
    if source.suffix.lower() == ".txt":
        lines = (line.strip() for line in tables.read_text(source).splitlines())
        rows: Iterable[Mapping[str, Any]] = [{"prompt": line} for line in lines if line]
    else:
        rows = [row for _, row in _rows(source, ("prompt",))]
    return [
        PromptSet(key=_key(number), prompt=str(row["prompt"]), metadata=row)
        for number, row in enumerate(rows)
    ]


def read_folder(folder: Path) -> list[PromptSet]:
    """The prompts of a folder with their images, in alphabetic order."""
    samples = folder / "samples"
    flat = _compbench(samples) if samples.is_dir() else _compbench(folder)
    if flat:
        return flat
    places = [place for place in sorted(folder.iterdir()) if place.is_dir()]
    places = [place for place in places if not place.name.startswith(".")]
    geneval = [p for p in places if p.name.isdigit() and (p / "metadata.jsonl").is_file()]
    if geneval:
        return [_geneval(place) for place in geneval]
    named = [(place, _images(place)) for place in places]
    found = [
        _made(_key(number), _named_prompt(place), pictures)
        for number, (place, pictures) in enumerate((p, i) for p, i in named if i)
    ]
    if not found:
        raise UserError(
            f"{folder}: no images in it; expected a folder for each prompt, GenEval's layout "
            "(00000/metadata.jsonl, 00000/samples/), or names that end in _000000.png"
        )
    return found


def _geneval(place: Path) -> PromptSet:
    path = place / "metadata.jsonl"
    rows = tables.read_json_lines(path, ("prompt",))
    if len(rows) != 1:
        raise UserError(f"{path}: {len(rows)} objects; expected one, with a prompt")
    metadata = rows[0][1]
    pictures = _images(place / "samples") if (place / "samples").is_dir() else ()
    return PromptSet(key=place.name, prompt=metadata["prompt"], metadata=metadata, images=pictures)


def _named_prompt(place: Path) -> str:
    path = place / "prompt.txt"
    return tables.read_text(path).strip() if path.is_file() else place.name


def _compbench(folder: Path) -> list[PromptSet]:
    """Images whose names are their prompts; none unless all names are of that form."""
    groups: dict[str, list[str]] = {}
    for name in _images(folder):
        match = _NUMBERED.fullmatch(Path(name).stem)
        if match is None:
            return []
        groups.setdefault(match["prompt"], []).append(name)
    return _grouped(groups)


def _table_with_images(source: Path) -> list[PromptSet]:
    groups: dict[str, list[str]] = {}
    for where, row in _rows(source, ("prompt", "path")):
        path = Path(tables.text(row, "path", where=where))
        placed = path if path.exists() else source.parent / path
        groups.setdefault(tables.text(row, "prompt", where=where), []).append(str(placed))
    return _grouped(groups)


def _rows(source: Path, columns: tuple[str, ...]) -> list[tables.Row]:
    suffix = source.suffix.lower()
    if suffix in _TABLES:
        return tables.read_csv(source, columns, delimiter=_TABLES[suffix])
    if suffix != ".jsonl":
        raise UserError(f"{source}: expected a folder, or a file that ends in .csv, .tsv or .jsonl")
    return tables.read_json_lines(source, columns)


def _grouped(groups: Mapping[str, list[str]]) -> list[PromptSet]:
    return [
        _made(_key(number), prompt, tuple(images))
        for number, (prompt, images) in enumerate(groups.items())
    ]


def _made(key: str, prompt: str, images: tuple[str, ...]) -> PromptSet:
    return PromptSet(key=key, prompt=prompt, metadata={"prompt": prompt}, images=images)


def _images(folder: Path) -> tuple[str, ...]:
    files = (path for path in sorted(folder.iterdir()) if path.is_file())
    return tuple(
        str(path)
        for path in files
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def _key(number: int) -> str:
    return f"{number:05d}"
