"""Which test pictures the report shows, and their small copies."""

import base64
import dataclasses
import io
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from jaxqa.data import images
from jaxqa.errors import UserError
from jaxqa.evaluation.evaluator import Prediction

THUMBNAIL_SIDE = 288
# High first, at full colour resolution: the artefacts of the test image must survive. Lower only
# for noise, which would make the page heavy.
_QUALITIES = (90, 75, 60)
_MOST_BYTES = 120_000

_THOUGHT = re.compile(r"<think>(.*?)(?:</think>|$)", re.DOTALL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GalleryGroup:
    """Some predictions and what they have in common."""

    title: str
    caption: str
    predictions: list[Prediction]


def choose_groups(
    predictions: Sequence[Prediction], *, few: int = 4, many: int = 12
) -> list[GalleryGroup]:
    """Up to `few` failures, closest and furthest predictions, and `many` over the label range.

    Deterministic, whatever the order of the predictions; no picture twice; no empty group.
    """
    ordered = sorted(predictions, key=lambda p: p.example_id)
    failed = [p for p in ordered if p.score is None]
    scored = sorted((p for p in ordered if p.score is not None), key=_absolute_error)
    few = min(few, (len(scored) + 2) // 3)
    closest, rest = scored[:few], scored[few:]
    furthest, middle = rest[: -few - 1 : -1], rest[: len(rest) - few]
    by_label = sorted(middle, key=lambda p: p.label)
    spread = [by_label[index] for index in _evenly(len(by_label), many)]
    groups = [
        ("Closest", "The predictions nearest to their labels.", closest),
        ("Across the scale", "Evenly spaced from the lowest label to the highest.", spread),
        ("Furthest off", "The predictions with the largest errors.", furthest),
        ("No score", "Answers without a number in the label range.", failed[: max(few, 4)]),
    ]
    return [
        GalleryGroup(title=title, caption=caption, predictions=chosen)
        for title, caption, chosen in groups
        if chosen
    ]


def thumbnail(workdir: Path, image: str, *, side: int = THUMBNAIL_SIDE) -> str | None:
    """A small JPEG of a file as a data URI; None if the file is missing or no image.

    No longer than `side` pixels on either side.

    The picture is decoded and encoded again, so nothing of the file but its pixels gets through.
    """
    try:
        pixels = images.decode(workdir / image)
    except UserError:
        return None
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    encoded = b""
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality, subsampling=0)
        encoded = buffer.getvalue()
        if len(encoded) <= _MOST_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(encoded).decode("ascii")


def rationale(text: str) -> str:
    """What the model thought: the inside of `<think>`, or the whole text without one."""
    found = _THOUGHT.search(text)
    return (found[1] if found else text).strip()


def _absolute_error(prediction: Prediction) -> float:
    assert prediction.score is not None
    return abs(prediction.score - prediction.label)


def _evenly(length: int, count: int) -> list[int]:
    """`count` different indices in the middle of equal parts of 0 to `length - 1`."""
    count = min(length, count)
    return [(2 * index + 1) * length // (2 * count) for index in range(count)]
