"""The demo data set: photographs that are on the machine, distorted, in KADID-10k's layout.

    images/I0001.png  images/I0001_03_05.png  dmos.csv  splits.csv  rationales.jsonl  manifest.json

A "reference" of the files is one crop of a scene. Labels are synthetic (`pseudo_mos`). Label files
of further tasks (`demo_tasks`, `demo_alignment`) are written where the config asks for them.
"""

import csv
import dataclasses
import itertools
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxqa import files
from jaxqa.data import demo_rationales, distortions, procedural, scenes
from jaxqa.data.demo_alignment import HELD_OUT, write_alignment
from jaxqa.data.demo_tasks import EXTRA_TASKS, Version, write_tasks
from jaxqa.data.pseudo_mos import pseudo_mos
from jaxqa.data.reference_crops import augment, scene_crop
from jaxqa.errors import UserError

MANIFEST = "manifest.json"
GENERATOR_VERSION = 6

_NUMBERED = list(enumerate(distortions.DISTORTIONS, 1))


@dataclass(frozen=True, kw_only=True)
class DemoDataConfig:
    """How much demo data to make, and which photographs are held out.

    Attributes:
        crop_size: Side of every picture in pixels, a multiple of 28.
        fold: Which photographs are the test split, 0 to `num_folds` - 1.
        num_folds: Parts into which the photographs are dealt.
        num_validation: Photographs in the validation split.
        photograph_crops: Crops of the training photographs together, dealt evenly.
        auxiliary_crops: Crops of the grey and scientific pictures together, for training.
        procedural_crops: Procedural scenes, one crop each, for training.
        validation_crops: Crops of the validation photographs together, at least one each.
        test_crops: Crops of the test photographs together, at least one each.
        train_distortions: Distorted versions of a training crop, 1 to 40; held-out crops get all.
        wallpapers: Use the photographs of Debian's wallpaper packages where installed.
        tasks: What can be asked about the pictures besides their quality: aesthetics, degradation,
            comparison, alignment; each gets a label file of its own.
        alignment_pictures: Drawn pictures with texts, where alignment is among the tasks.
    """

    crop_size: int = 112
    fold: int = 0
    num_folds: int = 4
    num_validation: int = 1
    photograph_crops: int = 300
    auxiliary_crops: int = 72
    procedural_crops: int = 300
    validation_crops: int = 5
    test_crops: int = 10
    train_distortions: int = 10
    wallpapers: bool = True
    tasks: tuple[str, ...] = ()
    alignment_pictures: int = 1000

    def __post_init__(self) -> None:
        known = (*EXTRA_TASKS, "alignment")
        if len(set(self.tasks)) != len(self.tasks) or not set(self.tasks) <= set(known):
            raise UserError(f"tasks must be some of {', '.join(known)}, found {self.tasks}")
        if self.alignment_pictures < HELD_OUT:
            raise UserError(
                f"alignment_pictures must be at least {HELD_OUT}, found {self.alignment_pictures}"
            )
        if self.crop_size < 28 or self.crop_size % 28:
            raise UserError(f"crop_size must be a multiple of 28, found {self.crop_size}")
        versions = len(distortions.DISTORTIONS) * distortions.NUM_LEVELS
        if not 1 <= self.train_distortions <= versions:
            raise UserError(f"train_distortions must be 1 to {versions}: {self.train_distortions}")
        if min(self.photograph_crops, self.validation_crops, self.test_crops) < 1:
            raise UserError("photograph_crops, validation_crops and test_crops must be at least 1")
        if self.auxiliary_crops < 0 or self.procedural_crops < 0:
            raise UserError("auxiliary_crops and procedural_crops must be at least 0")


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One reference crop to make with its distorted versions."""

    reference: str
    scene: str
    kind: str
    split: str
    index: int


@dataclass(frozen=True, kw_only=True)
class _Row:
    name: str
    reference: str
    score: float
    variance: float
    rationale: str | None


def make_demo_dataset(
    root: str | os.PathLike[str], config: DemoDataConfig, *, seed: int, num_threads: int = 2
) -> Path:
    """Write the demo data set into `root` and return it; do nothing where it is already there.

    The files are a function of `config`, `seed` and the pictures installed. They appear under
    their name all at once: a killed run leaves only a folder `<root>.partial`. Of several runs that
    want the same folder one makes it and the others wait.

    Raises:
        UserError: `root` holds something else or cannot be written, or too few photographs are
            installed.
    """
    root = Path(root)
    found = scenes.find_scenes(wallpapers=config.wallpapers)
    description = _describe(found, config, seed)
    if _is_complete(root, description):
        return root
    partial = root.with_name(root.name + ".partial")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with files.holding(root.parent):
            if _is_complete(root, description):
                return root
            shutil.rmtree(partial, ignore_errors=True)
            try:
                _write(partial, found, config, description, num_threads=num_threads)
                os.replace(partial, root)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write the demo data set to {root}: {error.strerror or error}; "
            "make room or choose another folder"
        ) from error
    return root


def _write(
    partial: Path,
    found: list[scenes.Scene],
    config: DemoDataConfig,
    description: dict[str, Any],
    *,
    num_threads: int,
) -> None:
    """Make every file of the data set in the new folder `partial`."""
    (partial / "images").mkdir(parents=True)
    jobs = list(_jobs(found, config))
    splits = _splits(found, config)
    pictures = {scene.name: scenes.load_scene(scene) for scene in found}
    surfaces = [pictures[s.name] for s in found if splits.get(s.name, "train") == "train"]
    workshop = _Workshop(
        folder=partial / "images",
        config=config,
        seed=description["seed"],
        pictures=pictures,
        surfaces=surfaces,
    )
    with ThreadPoolExecutor(num_threads) as pool:
        made = pool.map(workshop.make, jobs)
        rows = [row for group in made for row in group]
    _write_tables(partial, jobs, rows)
    seed, photographed = description["seed"], [t for t in config.tasks if t != "alignment"]
    write_tasks(partial, _versions(jobs, rows), photographed, seed)
    if "alignment" in config.tasks:
        write_alignment(partial, config.alignment_pictures, config.crop_size, seed)
    references = {job.reference: job.scene for job in jobs}
    manifest = {**description, "references": references, "images": len(rows)}
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def _versions(jobs: list[_Job], rows: list[_Row]) -> list[Version]:
    """Every reference crop, followed by its distorted versions."""
    names = list(distortions.DISTORTIONS)
    by_reference: dict[str, list[_Row]] = {}
    for row in rows:
        by_reference.setdefault(row.reference, []).append(row)
    versions = []
    for job in jobs:
        whole = f"{job.reference}.png"
        shared = {"reference": whole, "split": job.split}
        versions.append(Version(name=whole, distortion=None, level=0, score=5.0, **shared))
        for row in by_reference[whole]:
            _, number, level = Path(row.name).stem.split("_")
            distortion = names[int(number) - 1]
            versions.append(
                Version(
                    name=row.name,
                    distortion=distortion,
                    level=int(level),
                    score=row.score,
                    **shared,
                )
            )
    return versions


def _describe(found: list[scenes.Scene], config: DemoDataConfig, seed: int) -> dict[str, Any]:
    """What decides the content, and what must be said about it."""
    splits = _splits(found, config)
    return {
        "name": "jaxqa_demo",
        "labels": "synthetic pseudo-MOS from full-reference metrics; no person rated these images",
        "generator_version": GENERATOR_VERSION,
        "config": json.loads(json.dumps(dataclasses.asdict(config))),  # as a file gives it back
        "seed": seed,
        "scenes": [
            {
                "name": scene.name,
                "kind": scene.kind,
                "split": splits.get(scene.name, "train"),
                "source": scene.source,
                "licence": scene.licence,
            }
            for scene in found
        ],
    }


def _is_complete(root: Path, description: dict[str, Any]) -> bool:
    """Whether `root` holds this very data set; UserError where it holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        manifest = json.loads((root / MANIFEST).read_text())
        same = all(manifest.get(key) == value for key, value in description.items())
    except (OSError, ValueError, AttributeError):
        same = False
    if not same:
        raise UserError(
            f"{root} holds something other than this demo data set (other settings, seed or "
            "installed photographs); delete it or choose another folder"
        )
    return True


def _splits(found: list[scenes.Scene], config: DemoDataConfig) -> dict[str, scenes.Split]:
    photographs = [scene for scene in found if scene.kind == "photograph"]
    return scenes.split_scenes(
        photographs,
        fold=config.fold,
        num_folds=config.num_folds,
        num_validation=config.num_validation,
    )


def _jobs(found: list[scenes.Scene], config: DemoDataConfig) -> Iterator[_Job]:
    """Every reference crop of the data set, numbered I0001, I0002, ..."""
    groups = _groups(found, config)
    number = 0
    for group in groups:
        for place, scene in enumerate(group.scenes):
            for index in range(_share(group.crops, len(group.scenes), place)):
                number += 1
                yield _Job(
                    reference=f"I{number:04d}",
                    scene=scene,
                    kind=group.kind,
                    split=group.split,
                    index=index,
                )


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Scenes that share a number of crops."""

    scenes: list[str]
    kind: str
    split: str
    crops: int


def _groups(found: list[scenes.Scene], config: DemoDataConfig) -> list[_Group]:
    splits = _splits(found, config)
    crops = {
        "train": config.photograph_crops,
        "validation": config.validation_crops,
        "test": config.test_crops,
    }
    groups = []
    for split, count in crops.items():
        names = [name for name, part in splits.items() if part == split]
        least = 0 if split == "train" else len(names)
        groups.append(_Group(scenes=names, kind="photograph", split=split, crops=max(count, least)))
    auxiliary = [scene.name for scene in found if scene.kind == "auxiliary"]
    for kind, names, count in (
        ("auxiliary", auxiliary, config.auxiliary_crops),
        ("procedural", ["procedural"], config.procedural_crops),
    ):
        groups.append(_Group(scenes=names, kind=kind, split="train", crops=count))
    return groups


def _share(total: int, parts: int, place: int) -> int:
    """Size of part `place` when `total` is dealt evenly."""
    return total // parts + (place < total % parts)


@dataclass(frozen=True, kw_only=True)
class _Workshop:
    """What is needed to make any reference; `surfaces` are the training pictures."""

    folder: Path
    config: DemoDataConfig
    seed: int
    pictures: dict[str, np.ndarray]
    surfaces: list[np.ndarray]

    def make(self, job: _Job) -> list[_Row]:
        """Write one reference and its distorted versions; return their label rows."""
        rng = np.random.default_rng([self.seed, zlib.crc32(job.scene.encode()), job.index])
        reference = self._reference(job, rng)
        _save(reference, self.folder / f"{job.reference}.png")
        versions = list(itertools.product(_NUMBERED, range(1, distortions.NUM_LEVELS + 1)))
        if job.split == "train":
            chosen = np.sort(rng.permutation(len(versions))[: self.config.train_distortions])
            versions = [versions[i] for i in chosen]
        rows = []
        for (number, distortion), level in versions:
            name = f"{job.reference}_{number:02d}_{level:02d}.png"
            picture = distortions.distort(reference, distortion, level, rng=rng)
            _save(picture, self.folder / name)
            label = pseudo_mos(reference, picture)
            rationale = None
            if job.split == "train":
                rationale = demo_rationales.rationale(distortion, level, score=label.score)
            rows.append(
                _Row(
                    name=name,
                    reference=f"{job.reference}.png",
                    score=label.score,
                    variance=label.variance,
                    rationale=rationale,
                )
            )
        return rows

    def _reference(self, job: _Job, rng: np.random.Generator) -> np.ndarray:
        size = self.config.crop_size
        if job.kind == "procedural":
            _, picture = procedural.procedural_scene(2 * size, rng, self.surfaces)
        else:
            picture = self.pictures[job.scene]
        crop = scene_crop(picture, size, rng)
        return augment(crop, rng) if job.split == "train" else crop


def _save(picture: np.ndarray, path: Path) -> None:
    Image.fromarray(picture).save(path, compress_level=1)


def _write_tables(folder: Path, jobs: list[_Job], rows: list[_Row]) -> None:
    with open(folder / "dmos.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["dist_img", "ref_img", "dmos", "var"])
        writer.writerows(
            [row.name, row.reference, f"{row.score:.3f}", f"{row.variance:.4f}"] for row in rows
        )
    with open(folder / "splits.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ref_img", "split"])
        writer.writerows([f"{job.reference}.png", job.split] for job in jobs)
    with open(folder / "rationales.jsonl", "w") as file:
        for row in rows:
            if row.rationale is not None:
                line = {"dist_img": row.name, "rationale": row.rationale}
                file.write(json.dumps(line) + "\n")
