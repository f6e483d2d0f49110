"""What a data set is made of: its facts, its rows as files say them, and the examples of them."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxqa.data.layouts import Layout
from jaxqa.data.splits import Split
from jaxqa.data.stored import StoredImage
from jaxqa.rewards.labels import TASKS

PARTS = ("train", "validation", "test")
"""What a split divides a data set into."""

OWN = "official"
"""The split that a data set's own files assign."""

UNSCORED = ("degradation", "comparison")
"""Tasks whose labels are words."""

ImageSource = bytes | Path | StoredImage
"""Encoded bytes, a file, or a record of a prepared data set."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One image with what is known about it; picklable, so that loader workers can receive it.

    Attributes:
        example_id: Stable 63-bit number, see `stable_id`; keys of random streams derive from it.
        image: Path of the file, its encoded bytes, or its place in a prepared data set.
        score: Label in the data set's own range and direction; None where unlabelled.
        dataset: Name in the registry.
        task: One of `TASKS`.
        prompt: Text that the image was generated from, where the task needs it.
        rationale: Teacher's reasoning for supervised fine-tuning, where there is one.
        metadata: What else the files say, for example reference and distortion.
        extra_images: Further images after `image`: of a comparison, whose `image` is the
            reference, the two candidates A and B.
        answer_labels: The answers of tasks without a score: of a degradation
            "distortion_class" and "severity", of a comparison "choice".
    """

    example_id: int
    image: ImageSource
    score: float | None
    dataset: str
    task: str
    prompt: str | None = None
    rationale: str | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    extra_images: tuple[ImageSource, ...] = ()
    answer_labels: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """One row of a data set's label file, as every reader returns it.

    Attributes:
        name: The row's name in the label file, unique within the data set.
        files: The image's file as the label file writes it, then those of a comparison's
            candidates; relative to one of the layout's image folders.
        score: Label in the data set's own range and direction; None for tasks without one.
        reference: What examples may not share across splits (the source image), if any.
        parts: Name of a split -> part of `PARTS`, of every split that the files assign; that of
            the data set itself is called "official".
        task: One of `TASKS`, where the files decide it row by row.
        prompt: Text that the image was generated from, if any.
        rationale: Teacher's reasoning, if any.
        answer_labels: See `Example`.
        encoded: The images themselves, where the label file holds them (Parquet).
        metadata: Everything else worth keeping.
    """

    name: str
    files: tuple[str, ...]
    score: float | None
    reference: str | None = None
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    task: str | None = None
    prompt: str | None = None
    rationale: str | None = None
    answer_labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    encoded: tuple[ImageSource, ...] = ()
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """What a reader found.

    Attributes:
        rows: All rows, in the order of the files.
        notes: What was left out or turned round, in words for `jaxqa data check`.
    """

    rows: list[LabelledImage]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What must be known of a data set besides its files.

    Attributes:
        name: Name on the command line and in results.
        task: What the label rates, one of `TASKS`.
        label_name: The label's name in the data set's own terms.
        label_range: Lowest and highest label that can occur, inclusive.
        higher_is_better: Direction of the label, after a reader turned it round where it does.
        synthetic: True where the label is computed and no person gave it; reports must say so.
        licence: Terms of use, as far as its authors state them.
        citation: What to cite.
        homepage: Where to get it.
        layouts: Arrangements of the files that are accepted; the first found is read.
        folders: Names that its folder has below the data root, besides `name`.
        measured_range: Lowest and highest label of the whole published data set, where known;
            min-max normalisations of papers use it.
        deviation: What `metadata["label_std"]` of its examples is; empty where there is none.
        count: Number of labelled images of the published data set; 0 where unknown.
        own_counts: Images per part of the split that the files assign, as published.
        splits: Named splits besides what the files assign.
        tolerated_missing: Image files that may be absent; their rows are left out.
        distortions: Names of distortion types 1, 2, ... of the image file names.
        notes: What is easily taken wrongly, in words for `jaxqa data list` and `check`.
    """

    name: str
    task: str
    label_name: str
    label_range: tuple[float, float]
    higher_is_better: bool
    synthetic: bool = False
    licence: str
    citation: str
    homepage: str
    layouts: tuple[Layout, ...]
    folders: tuple[str, ...] = ()
    measured_range: tuple[float, float] | None = None
    deviation: str = ""
    count: int = 0
    own_counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    splits: Mapping[str, Split] = dataclasses.field(default_factory=dict)
    tolerated_missing: int = 0
    distortions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        if self.task not in TASKS:
            raise ValueError(f"{self.name}: task is {self.task!r}; expected one of {TASKS}")
        if not self.label_range[0] < self.label_range[1] or not self.layouts:
            raise ValueError(f"{self.name}: expected a label range that rises, and a layout")


def stable_id(dataset: str, name: str) -> int:
    """A 63-bit number made from a data set's name and an image's name in it, and nothing else.

    The same image keeps its number whatever the split, the order or the place on disk.
    """
    digest = hashlib.blake2b(f"{dataset}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
