"""The data sets by name: label range and direction, splits, licence; and how to read them.

Ranges, directions and splits are facts written here. They are never guessed from values.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jaxqa.data import distortions, readers
from jaxqa.data.records import (
    PARTS,
    DatasetInfo,
    Example,
    LabelledImage,
    ReferenceSplit,
    stable_id,
)
from jaxqa.errors import UserError

_CHOICES: Mapping[str, tuple[str, ...]] = {
    **{part: (part,) for part in PARTS},
    "train+validation": ("train", "validation"),  # what a source without validation trains on
}


def _references(numbers: str) -> frozenset[str]:
    return frozenset(f"I{int(number):02d}" for number in numbers.split())


_OURS = "validation references chosen by jaxqa (the source names none)"

_KADID_SPLITS = {
    "qalign": ReferenceSplit(
        test=_references(" ".join(str(number) for number in range(66, 82))),
        validation=_references("4 12 20 28 36 44 52 60"),
        source=f"Q-Align's test list; {_OURS}",
    ),
    "tatar": ReferenceSplit(
        test=_references("3 12 13 16 22 26 29 37 41 45 48 50 51 57 63 66"),
        validation=_references("4 10 20 28 36 44 52 60"),
        source=f"TATAR's test list; {_OURS}",
    ),
    "visualquality_r1": ReferenceSplit(
        test=_references("19 29 30 34 37 38 43 50 64 71 72 73 74 78 80 81"),
        validation=_references("2 6 10 14 18 22 26 31 35 40 45 49 54 58 62 67"),
        source=f"VisualQuality-R1's test list, sizes 6:2:2; {_OURS}",
    ),
}

_KADID10K = DatasetInfo(
    name="kadid10k",
    format="kadid",
    task="quality",
    label_name="dmos",
    label_range=(1.0, 5.0),
    measured_range=(1.0, 4.93),
    higher_is_better=True,  # level means fall from 4.08 to 2.01: "dmos" is a misnomer
    synthetic=False,
    licence="reference photographs from pixabay.com; terms of the whole on the homepage",
    citation="Lin, Hosu, Saupe: KADID-10k, a large-scale artificially distorted IQA database. "
    "QoMEX 2019",
    homepage="https://database.mmsp-kn.de/kadid-10k-database.html",
    splits=_KADID_SPLITS,
    distortions=(
        "gaussian_blur",
        "lens_blur",
        "motion_blur",
        "colour_diffusion",
        "colour_shift",
        "colour_quantisation",
        "colour_saturation_hsv",
        "colour_saturation_lab",
        "jpeg2000",
        "jpeg",
        "white_noise",
        "white_noise_colour_component",
        "impulse_noise",
        "multiplicative_noise",
        "denoise",
        "brighten",
        "darken",
        "mean_shift",
        "jitter",
        "non_eccentricity_patch",
        "pixelate",
        "quantisation",
        "colour_block",
        "high_sharpen",
        "contrast_change",
    ),
)

_JAXQA_DEMO = DatasetInfo(
    name="jaxqa_demo",
    format="kadid",
    task="quality",
    label_name="synthetic pseudo-MOS",
    label_range=(1.0, 5.0),
    higher_is_better=True,
    synthetic=True,
    licence="made on this machine; each photograph keeps its own licence, see its package",
    citation="computed by jaxqa from a full-reference metric; no person rated these images",
    homepage="jaxqa.data.demo",
    distortions=tuple(distortions.DISTORTIONS),
)

DATASETS: Mapping[str, DatasetInfo] = {info.name: info for info in (_KADID10K, _JAXQA_DEMO)}


def dataset_info(name: str) -> DatasetInfo:
    """The registry's row for `name`; UserError lists the known names."""
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}; known are {', '.join(DATASETS)}")
    return DATASETS[name]


def read_dataset(name: str, root: str | os.PathLike[str], split: str) -> list[Example]:
    """The examples of one split, in the order of the label file.

    Args:
        name: A key of `DATASETS`.
        root: The data set's folder, or the folder that holds it under its registry name.
        split: `PART` by the data set's own split file, `SPLIT/PART` by a named split of the
            registry, or `all`. PART is train, validation, test or train+validation.

    Raises:
        UserError: unknown names; missing folder, files or columns; unreadable or out-of-range
            labels; missing images (counted, the first few named); nothing left.
    """
    info = dataset_info(name)
    chosen = _part_chooser(info, split)
    folder = _find_folder(info, Path(root))
    rows = readers.READERS[info.format](folder)
    if not rows:
        raise UserError(f"{folder}: {name} is empty: its label file has no rows")
    _check_labels(info, folder, rows)
    rows = [row for row in rows if chosen(row, folder)]
    if not rows:
        raise UserError(f"{folder}: {name} has no images in split {split!r}")
    _check_images(info, folder, rows)
    return [_example(info, row) for row in rows]


def _part_chooser(info: DatasetInfo, split: str) -> Callable[[LabelledImage, Path], bool]:
    """A function that says whether a row belongs to the split."""
    if split == "all":
        return lambda row, folder: True
    scheme, slash, choice = split.rpartition("/")
    if choice not in _CHOICES or (slash and scheme not in info.splits):
        named = "".join(f"{scheme}/PART, " for scheme in info.splits)
        raise UserError(
            f"unknown split {split!r} of {info.name}; expected all, {named}or PART alone where "
            f"the data set has a split file; PART is one of {', '.join(_CHOICES)}"
        )
    parts = _CHOICES[choice]
    if slash:
        by_reference = info.splits[scheme]
        return lambda row, folder: by_reference.part_of(row.reference or row.name) in parts
    return lambda row, folder: _own_part(info, row, folder) in parts


def _own_part(info: DatasetInfo, row: LabelledImage, folder: Path) -> str:
    if row.part is None:
        named = f"; named splits: {', '.join(info.splits)}" if info.splits else ""
        raise UserError(f"{folder}: {info.name} has no split file (splits.csv){named}")
    return row.part


def _find_folder(info: DatasetInfo, root: Path) -> Path:
    label_file = readers.LABEL_FILES[info.format]
    for folder in (root / info.name, root):
        if (folder / label_file).is_file():
            return folder
    raise UserError(
        f"{info.name}: found neither {root / info.name / label_file} nor {root / label_file}; "
        f"put the data set there or give another data root ({info.homepage})"
    )


def _check_labels(info: DatasetInfo, folder: Path, rows: Sequence[LabelledImage]) -> None:
    low, high = info.label_range
    outside = [row for row in rows if not low <= row.score <= high]
    if outside:
        raise UserError(
            f"{folder}: {len(outside)} of {len(rows)} labels are outside {info.name}'s range "
            f"{low} to {high}, first {outside[0].name} with {info.label_name} {outside[0].score}"
        )


def _check_images(info: DatasetInfo, folder: Path, rows: Sequence[LabelledImage]) -> None:
    """UserError unless every image file is there; one directory listing per folder."""
    present: set[Path] = set()
    for parent in {row.path.parent for row in rows}:
        try:
            present.update(parent / entry.name for entry in os.scandir(parent) if entry.is_file())
        except OSError as error:
            raise UserError(f"{parent}: cannot list the images: {error.strerror}") from error
    missing = [row.name for row in rows if row.path not in present]
    if missing:
        more = ", ..." if len(missing) > 3 else ""
        raise UserError(
            f"{folder}: {len(missing)} of {len(rows)} image files of {info.name} are missing: "
            f"{', '.join(missing[:3])}{more}; unpack the data set again"
        )


def _example(info: DatasetInfo, row: LabelledImage) -> Example:
    metadata = dict(row.metadata)
    number = metadata.get("distortion_type", 0)
    if 1 <= number <= len(info.distortions):
        metadata["distortion"] = info.distortions[number - 1]
    return Example(
        example_id=stable_id(info.name, row.name),
        image=row.path,
        score=row.score,
        dataset=info.name,
        task=info.task,
        rationale=row.rationale,
        metadata=metadata,
    )
