"""What a data set is made of: its facts, its rows as files say them, and the examples of them."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxqa.rewards.labels import TASKS as TASKS

PARTS = ("train", "validation", "test")
"""What a split divides a data set into."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One image with what is known about it; picklable, so that loader workers can receive it.

    Attributes:
        example_id: Stable 63-bit number, see `stable_id`; keys of random streams derive from it.
        image: Path of the file, or its encoded bytes.
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
    image: bytes | Path
    score: float | None
    dataset: str
    task: str
    prompt: str | None = None
    rationale: str | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    extra_images: tuple[bytes | Path, ...] = ()
    answer_labels: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """One row of a data set's label file, as every reader returns it.

    Attributes:
        name: The image's name in the label file, unique within the data set.
        path: Where the image file should be; readers do not look.
        score: Label in the data set's own range and direction.
        reference: What examples may not share across splits (the source image), if any.
        part: Part of `PARTS` that the data set's own files assign, if any.
        rationale: Teacher's reasoning, if any.
        metadata: Everything else worth keeping.
    """

    name: str
    path: Path
    score: float
    reference: str | None = None
    part: str | None = None
    rationale: str | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceSplit:
    """A published split by reference image; references named in neither list are for training.

    Attributes:
        test: References of the published test set.
        validation: References to choose settings on.
        source: Where the lists come from.
    """

    test: frozenset[str]
    validation: frozenset[str]
    source: str

    def part_of(self, reference: str) -> str:
        """The part that a reference's images belong to."""
        if reference in self.test:
            return "test"
        return "validation" if reference in self.validation else "train"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What must be known of a data set besides its files.

    Attributes:
        name: Name on the command line and in results.
        format: Reader, a key of `readers.READERS`.
        task: What the label rates, one of `TASKS`.
        label_name: The label's name in the data set's own terms.
        label_range: Lowest and highest label that can occur, inclusive.
        higher_is_better: Direction of the label.
        measured_range: Lowest and highest label of the whole published data set, where known;
            min-max normalisations of papers use it.
        synthetic: True where the label is computed and no person gave it; reports must say so.
        licence: Terms of use, as far as its authors state them.
        citation: What to cite.
        homepage: Where to get it.
        splits: Named splits, for data sets that do not bring their own.
        distortions: Names of distortion types 1, 2, ... of the image file names.
    """

    name: str
    format: str
    task: str
    label_name: str
    label_range: tuple[float, float]
    higher_is_better: bool
    synthetic: bool
    licence: str
    citation: str
    homepage: str
    measured_range: tuple[float, float] | None = None
    splits: Mapping[str, ReferenceSplit] = dataclasses.field(default_factory=dict)
    distortions: tuple[str, ...] = ()


def stable_id(dataset: str, name: str) -> int:
    """A 63-bit number made from a data set's name and an image's name in it, and nothing else.

    The same image keeps its number whatever the split, the order or the place on disk.
    """
    digest = hashlib.blake2b(f"{dataset}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
