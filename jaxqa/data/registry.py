"""The data sets by name: label range and direction, splits, licence; and how to read them.

Ranges, directions and splits are facts written in `jaxqa.data.catalogue`. They are never guessed
from values.
"""

import collections
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxqa.data import discovery, nearby, own
from jaxqa.data.catalogue import (
    aesthetics,
    authentic,
    demo_set,
    distorted,
    restored,
    text_to_image,
    unscored,
)
from jaxqa.data.discovery import Found
from jaxqa.data.records import (
    OWN,
    PARTS,
    DatasetInfo,
    Example,
    ImageSource,
    LabelledImage,
    stable_id,
)
from jaxqa.data.splits import parse_seeded
from jaxqa.errors import UserError

_FAMILIES = (authentic, distorted, aesthetics, text_to_image, restored, unscored, demo_set)

_CHOICES: Mapping[str, tuple[str, ...]] = {
    **{part: (part,) for part in PARTS},
    "train+validation": ("train", "validation"),  # what a source without validation trains on
}

_NAMED = 3
"""How many offenders a message names."""


def _by_name() -> dict[str, DatasetInfo]:
    infos = [info for family in _FAMILIES for info in family.INFOS]
    counts = collections.Counter(info.name for info in infos)
    doubled = [name for name, count in counts.items() if count > 1]
    if doubled:
        raise ValueError(f"two data sets are called {', '.join(doubled)}")
    return {info.name: info for info in infos}


DATASETS: Mapping[str, DatasetInfo] = _by_name()


def dataset_info(name: str) -> DatasetInfo:
    """The registry's row for `name`, or what a `file:` name declares.

    Raises:
        UserError: an unknown name, with the known ones.
    """
    if own.is_own(name):
        return own.own_info(name, DATASETS)
    if name not in DATASETS:
        raise UserError(
            f"unknown data set {name!r}; known are {', '.join(DATASETS)}, and tables of yours as "
            "file:PATH#range=LOW..HIGH"
        )
    return DATASETS[name]


def parse_selection(text: str) -> tuple[str, str]:
    """Name and split of `NAME[:SPLIT]`; the split is empty where none is given.

    A `file:` name has its own colon; its split follows the last one, after the options.
    """
    prefix = own.PREFIX if own.is_own(text) else ""
    name, _, split = text.removeprefix(prefix).partition(":")
    return prefix + name, split


def read_dataset(name: str, root: str | os.PathLike[str], split: str) -> list[Example]:
    """The examples of one split, in the order of the label file.

    Args:
        name: A key of `DATASETS`, or `file:PATH#range=LOW..HIGH` (see `jaxqa.data.own`).
        root: The data set's folder, or the folder that holds it under one of its names; either as
            its authors give it or as `jaxqa data prepare` wrote it.
        split: `all`; `PART` of the data set's own split; `SPLIT/PART` of a named one, or `SPLIT`
            alone for its test part. PART is train, validation, test or train+validation. Splits
            are those of the registry, those that the files assign, and `seeded802-SEED`.

    Raises:
        UserError: unknown names; missing folder, files or columns; unreadable or out-of-range
            labels; more missing images than the data set is known for (counted, the first few
            named); nothing left.
    """
    info = dataset_info(name)
    source = discovery.find_dataset(info, name, Path(root))
    rows = source.labels.rows
    if not rows:
        raise UserError(f"{source.folder}: {name} is empty: its label file has no rows")
    check_labels(info, source.folder, rows)
    chosen = [
        row
        for row, part in zip(rows, assign(info, source, split), strict=True)
        if part in _parts_of(split)
    ]
    if not chosen:
        held = _sizes(info, source, split)
        raise UserError(
            f"{source.folder}: {name} has no images in split {split!r}: {_scheme(split)} has {held}"
        )
    return [_example(info, row, files) for row, files in _with_files(info, source, chosen)]


def assign(info: DatasetInfo, source: Found, split: str) -> Sequence[str | None]:
    """The part that each row of a data set has in `split`.

    Raises:
        UserError: an unknown split, or one that needs a list which is not there.
    """
    rows = source.labels.rows
    if split == "all":
        return ["all"] * len(rows)
    scheme = _scheme(split)
    if any(scheme in row.parts for row in rows):
        return [row.parts.get(scheme) for row in rows]
    rule = info.splits.get(scheme) or parse_seeded(scheme)
    if rule is not None:
        return rule.assign(rows, source.folder)
    if scheme == OWN:
        raise UserError(
            f"{source.folder}: {info.name} has no split file of its own"
            f"{_own_files(info)}; {_known_splits(info, rows)}"
        )
    raise UserError(
        f"unknown split {split!r} of {info.name}; expected all, {_known_splits(info, rows)}"
    )


def _sizes(info: DatasetInfo, source: Found, split: str) -> str:
    """How many images each part of a split has."""
    counts = collections.Counter(part for part in assign(info, source, split) if part is not None)
    return ", ".join(f"{part} {count}" for part, count in counts.items()) or "none in any part"


def split_names(info: DatasetInfo, rows: Sequence[LabelledImage]) -> list[str]:
    """Every split that can be asked for: the files' and the registry's."""
    assigned = dict.fromkeys(scheme for row in rows for scheme in row.parts)
    return list(dict.fromkeys([*assigned, *info.splits]))


def check_labels(info: DatasetInfo, folder: Path, rows: Sequence[LabelledImage]) -> None:
    """UserError unless every label is in the data set's range."""
    low, high = info.label_range
    outside = [row for row in rows if row.score is not None and not low <= row.score <= high]
    if outside:
        raise UserError(
            f"{folder}: {len(outside)} of {len(rows)} labels are outside {info.name}'s range "
            f"{low} to {high}, first {outside[0].name} with {info.label_name} {outside[0].score:g}"
        )


def _scheme(split: str) -> str:
    """The split that is meant: of `PART` alone the data set's own, of `SPLIT` alone its test."""
    scheme, slash, choice = split.rpartition("/")
    if not slash:
        return OWN if choice in _CHOICES else choice
    return scheme if choice in _CHOICES else split


def _parts_of(split: str) -> tuple[str, ...]:
    if split == "all":
        return ("all",)
    return _CHOICES.get(split.rpartition("/")[2], ("test",))


def _known_splits(info: DatasetInfo, rows: Sequence[LabelledImage]) -> str:
    names = split_names(info, rows)
    named = f"named splits: {', '.join(names)}" if names else "it has no named splits"
    return (
        f"{named}, seeded802-SEED; ask for SPLIT/PART, or PART alone where the data set has a "
        f"split of its own; PART is one of {', '.join(_CHOICES)}"
    )


def _own_files(info: DatasetInfo) -> str:
    return " (splits.csv)" if any(layout.reader == "kadid" for layout in info.layouts) else ""


def _with_files(
    info: DatasetInfo, source: Found, rows: Sequence[LabelledImage]
) -> list[tuple[LabelledImage, tuple[ImageSource, ...]]]:
    """Rows with their images; UserError where more are missing than the data set is known for."""
    found = [(row, source.images(row)) for row in rows]
    missing = [row for row, files in found if None in files]
    if len(missing) > info.tolerated_missing or len(missing) == len(rows):
        names = ", ".join(row.name for row in missing[:_NAMED])
        more = ", ..." if len(missing) > _NAMED else ""
        homes = ", ".join(str(home) for home in source.homes)
        hint = nearby.image_hint(missing[0].files[0], source.folder, source.homes)
        raise UserError(
            f"{source.folder}: {len(missing)} of {len(rows)} image files of {info.name} are "
            f"missing: {names}{more}; looked in {homes}" + (hint or "; unpack the data set again")
        )
    return [
        (row, tuple(f for f in files if f is not None)) for row, files in found if None not in files
    ]


def _example(info: DatasetInfo, row: LabelledImage, files: tuple[ImageSource, ...]) -> Example:
    metadata = dict(row.metadata)
    number = metadata.get("distortion_type", 0)
    if 1 <= number <= len(info.distortions):
        metadata["distortion"] = info.distortions[number - 1]
    return Example(
        example_id=stable_id(info.name, row.name),
        image=files[0],
        extra_images=files[1:],
        score=row.score,
        dataset=info.name,
        task=row.task or info.task,
        prompt=row.prompt,
        rationale=row.rationale,
        answer_labels=dict(row.answer_labels),
        metadata=metadata,
    )
