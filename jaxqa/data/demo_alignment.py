"""Drawn pictures with texts that fit them more or less: the demo's text-image alignment.

    alignment.jsonl    image, prompt, gt_score (1 to 5), split, rationale

The label is synthetic: how many of three things that the text names (colour, shape, ground) the
picture shows. The rationale sets what is shown beside what was asked for, part by part: "Red for
blue differs; square for square fits; green for green fits." A verdict that stands far from the two
words it compares is not learned at the demo's size (docs/ablations.md).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (200, 40, 40),
    "green": (40, 160, 60),
    "blue": (50, 80, 200),
    "yellow": (220, 200, 50),
}
SHAPES = ("circle", "square", "triangle")
HELD_OUT = 5
"""One picture in so many is for validation, and one for the test."""


def write_alignment(folder: Path, count: int, size: int, seed: int) -> None:
    """Draw `count` pictures of side `size` into `folder`/images and write their label file."""
    rng = np.random.default_rng([seed, 7])
    with open(folder / "alignment.jsonl", "w") as file:
        for row, picture in _pictures(count, size, rng):
            picture.save(folder / "images" / row["image"], compress_level=1)
            file.write(json.dumps(row) + "\n")


def _pictures(
    count: int, size: int, rng: np.random.Generator
) -> Iterator[tuple[dict[str, Any], Image.Image]]:
    for number in range(count):
        shown = _draw_lots(rng)
        kept = rng.permutation(3) < rng.integers(4)  # as many pictures with 0, 1, 2 and 3 fits
        said = tuple(s if keep else _another(s, rng) for s, keep in zip(shown, kept, strict=True))
        parts = zip(shown, said, ("fits" if keep else "differs" for keep in kept), strict=True)
        sentence = "; ".join(f"{drawn} for {asked} {verdict}" for drawn, asked, verdict in parts)
        row = {
            "image": f"T{number:05d}.png",
            "prompt": f"a {said[0]} {said[1]} on {said[2]}",
            "gt_score": round(1 + 4 * int(kept.sum()) / 3, 3),
            "split": {0: "test", 1: "validation"}.get(number % HELD_OUT, "train"),
            "rationale": f"{sentence.capitalize()}.",
        }
        yield row, _drawing(shown, size, rng)


def _draw_lots(rng: np.random.Generator) -> tuple[str, str, str]:
    colour, ground = rng.choice(list(COLOURS), 2, replace=False)
    return str(colour), str(rng.choice(SHAPES)), str(ground)


def _another(word: str, rng: np.random.Generator) -> str:
    """Another colour for a colour, another shape for a shape."""
    words = SHAPES if word in SHAPES else tuple(COLOURS)
    return str(rng.choice([other for other in words if other != word]))


def _drawing(shown: tuple[str, str, str], size: int, rng: np.random.Generator) -> Image.Image:
    """One shape somewhere on a ground, colours a little off, with a little noise."""
    colour, shape, ground = shown
    image = Image.new("RGB", (size, size), _shade(ground, rng))
    radius = size * rng.uniform(0.2, 0.35)
    x, y = rng.uniform(radius, size - radius, 2)
    box, fill = (x - radius, y - radius, x + radius, y + radius), _shade(colour, rng)
    draw = ImageDraw.Draw(image)
    if shape == "circle":
        draw.ellipse(box, fill=fill)
    elif shape == "square":
        draw.rectangle(box, fill=fill)
    else:
        draw.polygon([(x, box[1]), (box[0], box[3]), (box[2], box[3])], fill=fill)
    noisy = np.asarray(image, np.float32) + rng.normal(0, 4, (size, size, 1))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _shade(name: str, rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(np.clip(v + rng.normal(0, 12), 0, 255)) for v in COLOURS[name])
    return red, green, blue
