"""How the files of a data set lie on a disk, as data: label files, their reader, their columns.

Every data set has one or several `Layout`s; readers (`jaxqa.data.readers`) are per file format.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelFile:
    """One file of labels.

    Attributes:
        paths: Where it may lie below the data set's folder; the first that is there is read.
        part: The part of the split that all its rows belong to, if any.
    """

    paths: tuple[str, ...]
    part: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns (or keys, or named positions) of a row say what.

    Attributes:
        image: File name; several names are tried in order.
        folder: Column with the folder of the file, if the name lacks it.
        name_depth: How many of the last parts of the path make the row's name; 0 for all.
        score: Label; several names are tried in order; empty for tasks without one.
        offset, factor: label = offset + factor * value, for files in another scale or direction.
        std: Standard deviation of the raters, in the file's scale.
        std_factor: From the deviation's scale to the file's, where they differ.
        std_is_variance: The column holds the square.
        part: Part of the data set's own split, by the words in `part_words`.
        part_words: Word in the file -> part.
        reference: Source image.
        prompt: Text that the image was made from.
        rationale: Teacher's reasoning.
        task: Task of the row.
        answers: Answer label -> column.
        extra_images: Columns of further images.
        keep: Further columns to keep in the metadata.
        suffix: Extension of file names that are written without.
        pattern: Regular expression over the file's base name; its groups `reference`,
            `distortion_type` and `distortion_level` are kept.
        drop: Regular expression; rows whose base name it matches are not part of the data set.
        drop_reason: What the dropped rows are.
    """

    image: tuple[str, ...] = ("image", "img_path")
    folder: str = ""
    name_depth: int = 1
    score: tuple[str, ...] = ("gt_score",)
    offset: float = 0.0
    factor: float = 1.0
    std: str = ""
    std_factor: float = 1.0
    std_is_variance: bool = False
    part: str = ""
    part_words: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reference: str = ""
    prompt: str = ""
    rationale: str = ""
    task: str = ""
    answers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    extra_images: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    suffix: str = ""
    pattern: str = ""
    drop: str = ""
    drop_reason: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """One accepted arrangement of a data set's files.

    Attributes:
        name: Whose arrangement it is: "official", "pyiqa", "deqa", ...
        reader: A key of `readers.READERS`.
        files: Label files; the layout is recognised by any of them, and those there are read.
        images: Folders below the data set's where its images lie; searched in this order.
        columns: What the columns mean.
        split: Name of the split that `LabelFile.part` speaks of.
        options: What else the reader wants to know.
        notes: What to say of this arrangement.
    """

    name: str
    reader: str
    files: tuple[LabelFile, ...]
    images: tuple[str, ...] = ("",)
    columns: Columns = Columns()
    split: str = "official"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def label_file(*paths: str) -> tuple[LabelFile, ...]:
    """One file, wherever of `paths` it lies."""
    return (LabelFile(paths=paths),)


def label_files(**parts: str | tuple[str, ...]) -> tuple[LabelFile, ...]:
    """One file per part: `part=path`, or `part=(path, other path)`."""
    return tuple(
        LabelFile(paths=(paths,) if isinstance(paths, str) else paths, part=part)
        for part, paths in parts.items()
    )
