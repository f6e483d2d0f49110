"""Rules that part a data set into train, validation and test; each says where it comes from.

A rule gives every row a part, or none where the row belongs to no part of it.
"""

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxqa.data import name_lists
from jaxqa.errors import UserError


@runtime_checkable
class SplitRow(Protocol):
    """What a rule may look at."""

    @property
    def name(self) -> str:
        """The row's name, unique in its data set."""
        ...

    @property
    def reference(self) -> str | None:
        """Source image, if any."""
        ...

    @property
    def parts(self) -> Mapping[str, str]:
        """What the data set's own files assign: split -> part."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceSplit:
    """A published split by reference image; references named in neither list are for training.

    Attributes:
        test: References of the published test set.
        validation: References to choose settings on.
        source: Where the lists come from.
        counts: Images per part.
    """

    test: frozenset[str]
    validation: frozenset[str]
    source: str
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def part_of(self, reference: str) -> str:
        """The part that a reference's images belong to."""
        if reference in self.test:
            return "test"
        return "validation" if reference in self.validation else "train"

    def assign(self, rows: Sequence[SplitRow], folder: Path) -> list[str | None]:
        """By reference, or by name where a row has none."""
        del folder
        return [self.part_of(row.reference or row.name) for row in rows]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeSplit:
    """The whole data set as test images."""

    source: str
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def assign(self, rows: Sequence[SplitRow], folder: Path) -> list[str | None]:
        """Test, every one."""
        del folder
        return ["test"] * len(rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeededSplit:
    """Parts drawn by reference (or by image where there is none), the same on every machine.

    References are ordered by a hash of seed and name, then cut at the ratio.

    Attributes:
        ratio: Tenths for train, validation and test.
        seed: Names the order.
        source: What it stands for.
        counts: Images per part.
    """

    ratio: tuple[int, int, int]
    seed: int
    source: str
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def assign(self, rows: Sequence[SplitRow], folder: Path) -> list[str | None]:
        """By the rank of each row's reference."""
        del folder
        references = sorted({row.reference or row.name for row in rows}, key=self._rank)
        train = round(len(references) * self.ratio[0] / 10)
        validation = round(len(references) * self.ratio[1] / 10)
        parts = dict.fromkeys(references, "test")
        parts.update(dict.fromkeys(references[: train + validation], "validation"))
        parts.update(dict.fromkeys(references[:train], "train"))
        return [parts[row.reference or row.name] for row in rows]

    def _rank(self, reference: str) -> bytes:
        return hashlib.blake2b(f"{self.seed}/{reference}".encode(), digest_size=16).digest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class NameList:
    """A list of image names that somebody published and the user has.

    Attributes:
        files: Where it may lie, below the data set's folder or its `splits/`.
        count: Names that it must hold; 0 where unknown.
        sha256: Of its sorted base names, one per line; empty where unknown.
    """

    files: tuple[str, ...]
    count: int = 0
    sha256: str = ""

    def read(self, folder: Path, *, source: str) -> frozenset[str]:
        """The stems of the names.

        Raises:
            UserError: no such file, or one with another number of names or another hash.
        """
        path = self.find(folder)
        if path is None:
            homes = ", ".join(str(home) for home in _homes(folder))
            raise UserError(
                f"{source}: no list of images found; put {' or '.join(self.files[:3])} into one of "
                f"{homes}"
            )
        names = name_lists.read_names(path)
        if self.count and len(names) != self.count:
            raise UserError(
                f"{path}: {len(names)} different names, expected {self.count} ({source}); "
                "this is another list, or part of one"
            )
        found = name_lists.digest(names)
        if self.sha256 and found != self.sha256:
            raise UserError(f"{path}: names with SHA-256 {found}, expected {self.sha256}: {source}")
        return frozenset(name_lists.stem(name) for name in names)

    def find(self, folder: Path) -> Path | None:
        """The first of the files that is there."""
        return next((path for path in self._places(folder) if path.is_file()), None)

    def _places(self, folder: Path) -> list[Path]:
        return [home / file for file in self.files for home in _homes(folder)]


def _homes(folder: Path) -> tuple[Path, ...]:
    """Where lists of others are looked for."""
    return (folder, folder / "splits", folder.parent / "splits")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListSplit:
    """A split by published lists of names.

    Attributes:
        lists: Part -> list.
        rest: Part of the images that no list names, if they belong to any.
        source: Where the lists come from.
        total: Names that the lists must hold together, where all are there; 0 where unknown.
        counts: Images per part.
    """

    lists: Mapping[str, NameList]
    source: str
    rest: str | None = None
    total: int = 0
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def assign(self, rows: Sequence[SplitRow], folder: Path) -> list[str | None]:
        """By name; UserError where a list is missing, two share a name or a name is lacking.

        A list that is not there is missed only where it is the one for testing.
        """
        parts: dict[str, str | None] = {}
        whole = all(names.find(folder) is not None for names in self.lists.values())
        for part, names in self.lists.items():
            if part != "test" and names.find(folder) is None:
                continue
            for name in names.read(folder, source=self.source):
                if parts.setdefault(name, part) != part:
                    raise UserError(f"{self.source}: {name} is in {parts[name]} and {part}")
        if whole and self.total and len(parts) != self.total:
            raise UserError(
                f"{self.source}: the lists name {len(parts)} images together, expected "
                f"{self.total}; one of them is another list, or part of one"
            )
        return [parts.get(name_lists.stem(row.name), self.rest) for row in rows]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnSplit:
    """The data set's own split with some test images left out, as a paper uses it.

    Attributes:
        without: Stems of the images that belong to no part.
        train: A published list to which the training part is limited, where the user has it.
        source: Who parts so.
        counts: Images per part.
    """

    source: str
    without: frozenset[str] = frozenset()
    train: NameList | None = None
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def assign(self, rows: Sequence[SplitRow], folder: Path) -> list[str | None]:
        """By the files' own parts; UserError where they assign none."""
        if not any("official" in row.parts for row in rows):
            raise UserError(f"{folder}: the files assign no split of their own: {self.source}")
        listed = None
        if self.train is not None and self.train.find(folder) is not None:
            listed = self.train.read(folder, source=self.source)
        return [self._part(row, listed) for row in rows]

    def _part(self, row: SplitRow, listed: frozenset[str] | None) -> str | None:
        part, stem = row.parts.get("official"), name_lists.stem(row.name)
        if stem in self.without or (part == "train" and listed is not None and stem not in listed):
            return None
        return part


Split = ReferenceSplit | WholeSplit | SeededSplit | ListSplit | OwnSplit
"""A named way to part a data set: `assign(rows, folder)` gives every row a part or none;
`source` says where it comes from; `counts` are the published images per part, where known."""

_SEEDED = re.compile(r"seeded(\d)(\d)(\d)-(\d{1,9})", re.ASCII)


def parse_seeded(name: str) -> SeededSplit | None:
    """The split called `seeded<train><validation><test>-<seed>`, for example seeded802-1."""
    match = _SEEDED.fullmatch(name)
    if match is None:
        return None
    train, validation, test, seed = (int(group) for group in match.groups())
    if train + validation + test != 10:
        raise UserError(f"split {name!r}: its three digits are tenths, so they must add up to 10")
    return SeededSplit(
        ratio=(train, validation, test), seed=seed, source=f"drawn by jaxqa, by reference: {name}"
    )
