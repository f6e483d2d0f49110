"""What else can be asked about the demo's pictures: aesthetics, degradation, comparison.

    aesthetics.jsonl   image, gt_score (0 to 10), reference, split, rationale, aesthetic_attributes
    degradation.jsonl  image, distortion_class, severity, reference, split, rationale
    comparison.jsonl   ref_image, ImageA, ImageB, result, split, rationale

All of it is synthetic: computed from pixels or known from how a picture was made.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxqa.data.demo_rationales import ARTEFACTS, STRENGTHS
from jaxqa.data.pseudo_mos import luma
from jaxqa.rewards.labels import CHOICES, SEVERITIES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Version:
    """One picture of the demo: a reference crop, distorted or not.

    Attributes:
        name: File name.
        reference: File name of the undistorted crop.
        split: Part of the split.
        distortion: Name, None for the crop itself.
        level: 1 to 5, 0 for the crop itself.
        score: Synthetic quality, 5 for the crop itself.
    """

    name: str
    reference: str
    split: str
    distortion: str | None
    level: int
    score: float


CLASSES: Mapping[str | None, str] = {
    "jpeg": "compression",
    "gaussian_blur": "blur",
    "motion_blur": "blur",
    "noise": "noise",
    "darkening": "darken",
    None: "null",
}
"""Class of each distortion in the degradation task, which leaves out pictures of others."""

NOTICEABLE = 0.25
"""Two versions whose synthetic qualities differ by less are called similar."""

_WORDS: Mapping[str, tuple[str, str, str]] = {
    "light": ("dim or glaring", "uneven", "balanced"),
    "colours": ("dull", "natural", "vivid"),
    "contrast": ("flat", "moderate", "strong"),
    "detail": ("soft", "fair", "crisp"),
}
"""Words for a low, middle and high value of each attribute, in the order of the narrative."""

_VERDICTS = ("unpleasing", "plain", "pleasing")


def write_tasks(folder: Path, versions: Sequence[Version], tasks: Iterable[str], seed: int) -> None:
    """Write the label file of each of `tasks`, for pictures in `folder`/images."""
    for task in tasks:
        rng = np.random.default_rng([seed, len(task)])
        with open(folder / f"{task}.jsonl", "w") as file:
            for row in _TASKS[task](folder / "images", versions, rng):
                file.write(json.dumps(row) + "\n")


def attributes(picture: np.ndarray) -> dict[str, float]:
    """Light, colours, contrast and detail of uint8 [H W 3], each 0 (poor) to 1.

    Light: distance of the mean brightness from the middle. Colours: Hasler and Suesstrunk's
    colourfulness (2003). Contrast: deviation of the brightness. Detail: mean gradient. The
    constants spread the demo's pictures over the whole range.
    """
    plane = luma(picture)
    red, green, blue = np.moveaxis(picture.astype(np.float32) / 255, -1, 0)
    opponents = np.stack([red - green, (red + green) / 2 - blue]).reshape(2, -1)
    colourfulness = np.hypot(*opponents.std(1)) + 0.3 * np.hypot(*opponents.mean(1))
    gradient = np.hypot(np.diff(plane, axis=0)[:, :-1], np.diff(plane, axis=1)[:-1]).mean()
    values = {
        "light": 1 - 2 * abs(float(plane.mean()) - 0.5),
        "colours": colourfulness / 0.5,
        "contrast": float(plane.std()) / 0.33,
        "detail": gradient / 0.2,
    }
    return {name: float(np.clip(value, 0, 1)) for name, value in values.items()}


def aesthetic_score(values: Mapping[str, float]) -> float:
    """Synthetic aesthetic score, 0 to 10: the mean of the attributes, colours counted twice."""
    return 10 * (sum(values.values()) + values["colours"]) / (len(values) + 1)


def _aesthetics(
    images: Path, versions: Sequence[Version], rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    del rng
    for version in versions:
        with Image.open(images / version.name) as opened:
            values = attributes(np.asarray(opened.convert("RGB")))
        score = aesthetic_score(values)
        said = [f"{name} {words[_third(values[name])]}" for name, words in _WORDS.items()]
        verdict = _VERDICTS[_third(score / 10)]
        yield {
            "image": version.name,
            "gt_score": round(score, 3),
            "reference": version.reference,
            "split": version.split,
            "rationale": f"{'; '.join(said).capitalize()}; the picture is {verdict}.",
            "aesthetic_attributes": {
                "visual_elements": f"{said[1]}; {said[2]}",
                "technical_execution": f"{said[0]}; {said[3]}",
                "overall_evaluation": f"the picture is {verdict}",
            },
        }


def _degradation(
    images: Path, versions: Sequence[Version], rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    del images
    for version in versions:
        if version.distortion not in CLASSES:
            continue
        if version.distortion is None:
            severity, reason = "null", "No artefact is visible."
        else:
            severity = SEVERITIES[version.level - 1]
            strengths, artefacts = STRENGTHS[version.level - 1], ARTEFACTS[version.distortion]
            reason = f"{rng.choice(strengths)} {rng.choice(artefacts)}."
        yield {
            "image": version.name,
            "distortion_class": CLASSES[version.distortion],
            "severity": severity,
            "reference": version.reference,
            "split": version.split,
            "rationale": reason,
        }


def _comparison(
    images: Path, versions: Sequence[Version], rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Each distorted version once, against the next one of its crop in a random order."""
    del images
    groups: dict[str, list[Version]] = {}
    for version in versions:
        if version.distortion is not None:
            groups.setdefault(version.reference, []).append(version)
    for reference, group in groups.items():
        shuffled = [group[i] for i in rng.permutation(len(group))]
        for first, second in zip(shuffled[::2], shuffled[1::2], strict=False):
            yield {
                "ref_image": reference,
                "ImageA": first.name,
                "ImageB": second.name,
                "result": _better(first, second),
                "split": first.split,
                "rationale": f"A shows {_flaw(first, rng)}, B {_flaw(second, rng)}.",
            }


def _better(first: Version, second: Version) -> str:
    gap = first.score - second.score
    return CHOICES[2] if abs(gap) < NOTICEABLE else CHOICES[0 if gap > 0 else 1]


def _flaw(version: Version, rng: np.random.Generator) -> str:
    strength = str(rng.choice(STRENGTHS[version.level - 1])).lower()
    return f"{strength} {rng.choice(ARTEFACTS[version.distortion or ''])}"


def _third(value: float) -> int:
    """0, 1 or 2 for the lower, middle and upper third of 0..1."""
    return min(int(3 * value), 2)


_TASKS: Mapping[
    str,
    Callable[[Path, Sequence[Version], np.random.Generator], Iterator[dict[str, Any]]],
] = {"aesthetics": _aesthetics, "degradation": _degradation, "comparison": _comparison}

EXTRA_TASKS = tuple(_TASKS)
"""Tasks beside quality that photographs serve."""
