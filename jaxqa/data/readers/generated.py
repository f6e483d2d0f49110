"""Images made from text: EvalMuse-40K, GenAI-Bench, T2I-CompBench."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jaxqa.data import binary_tables, tables
from jaxqa.data.layouts import Layout
from jaxqa.data.readers import plain, rows
from jaxqa.data.records import LabelledImage, Labels
from jaxqa.data.tables import Row
from jaxqa.errors import UserError

GENAI_MODELS = (
    *("DALLE_3", "SDXL_Turbo", "DeepFloyd_I_XL_v1", "Midjourney_6", "SDXL_2_1", "SDXL_Base"),
)


def mean_rating(value: Any, *, where: str) -> float:
    """Mean of a list of ratings, or of one written as text.

    Raises:
        UserError: no list of at least one number.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    ratings = value if isinstance(value, list) else []
    if not ratings or not all(isinstance(r, int | float) and math.isfinite(r) for r in ratings):
        raise UserError(f"{where}: ratings are {value!r}, expected a list of numbers")
    return math.fsum(ratings) / len(ratings)


def read_evalmuse(folder: Path, layout: Layout) -> Labels:
    """EvalMuse-40K's lists; rows without ratings are the withheld test labels, and left out."""
    found, withheld = [], 0
    for file, path in plain.present(folder, layout):
        table: list[Row] = []
        for where, row in tables.read_json_list(path):
            if row.get("total_score") in (None, []):
                withheld += 1
                continue
            mean = mean_rating(row["total_score"], where=where)
            meaningless = bool(row.get("promt_meaningless"))  # sic
            prompt_id = str(row.get("prompt_id", ""))
            table.append(
                (
                    where,
                    {
                        **row,
                        "mean": mean,
                        "prompt_id": prompt_id,
                        "prompt_meaningless": meaningless,
                    },
                )
            )
        found.append((file.part, table))
    labels = rows.labels(found, layout)
    notes = (f"{withheld} rows left out: their labels are withheld",) if withheld else ()
    return Labels(rows=labels.rows, notes=(*labels.notes, *notes))


def read_genai_bench(folder: Path, layout: Layout) -> Labels:
    """genai_image.json, one entry per prompt, one image and three ratings per model."""
    path = plain.present(folder, layout)[0][1]
    value = tables.read_json(path)
    if not isinstance(value, dict) or not all(isinstance(entry, dict) for entry in value.values()):
        raise UserError(f"{path}: expected a JSON object of prompts by number")
    found = list(_genai_rows(path, value))
    _check_prompts(path, len(value), layout)
    return rows.labels([(None, found)], layout)


def _genai_rows(path: Path, value: Mapping[str, Mapping[str, Any]]) -> Iterator[Row]:
    for number, entry in value.items():
        models = entry.get("models")
        if not isinstance(models, dict) or not isinstance(entry.get("prompt"), str):
            raise UserError(f"{path}, prompt {number}: expected keys prompt and models")
        for model, ratings in models.items():
            where = f"{path}, prompt {number}, {model}"
            yield (
                where,
                {
                    "image": f"{model}/{number}.jpeg",
                    "mean": mean_rating(ratings, where=where),
                    "prompt": entry["prompt"],
                    "prompt_id": number,
                    "model": model,
                },
            )


def _check_prompts(path: Path, found: int, layout: Layout) -> None:
    """The two variants of GenAI-Bench look alike; the number of prompts tells them apart."""
    expected = layout.options["prompts"]
    other = {527: 1600, 1600: 527}[expected]
    if found == other:
        raise UserError(
            f"{path}: {found} prompts: this is genai_bench_{other}, not genai_bench_{expected}"
        )


def read_genai_parquet(folder: Path, layout: Layout) -> Labels:
    """The Parquet edition, which holds the images; ratings are lists written as text."""
    ratings = [f"{model}_HumanRating" for model in GENAI_MODELS]
    wanted = ["Index", "Prompt", "prompt", "id", "HumanRatings", *GENAI_MODELS, *ratings]
    home = plain.present(folder, layout)[0][1]
    files = sorted(home.glob("*.parquet")) if home.is_dir() else [home]
    images: list[LabelledImage] = []
    prompts = 0
    for path in files:
        for where, row in binary_tables.read_parquet(path, wanted):
            images += _parquet_images(row, prompts, layout, where=where)
            prompts += 1
    _check_prompts(home, prompts, layout)
    return Labels(rows=images)


def _parquet_images(
    row: Mapping[str, Any], number: int, layout: Layout, *, where: str
) -> list[LabelledImage]:
    images = []
    prompt = next((row[name] for name in ("Prompt", "prompt") if name in row), None)
    for model in GENAI_MODELS:
        ratings = row.get(f"{model}_HumanRating", (row.get("HumanRatings") or {}).get(model))
        if ratings is None:
            continue
        fields = {"image": f"{model}/{number:05d}.jpeg", "prompt": prompt, "model": model}
        fields |= {"mean": mean_rating(ratings, where=where), "prompt_id": f"{number:05d}"}
        image = rows.image_of(fields, layout, part=None, where=where)
        if image is not None:
            encoded = embedded(row.get(model), where=where)
            images.append(dataclasses.replace(image, encoded=(encoded,)))
    return images


def embedded(value: Any, *, where: str) -> bytes:
    """Encoded image in a Parquet cell: bytes, or Hugging Face's `{"bytes": ..., "path": ...}`."""
    if isinstance(value, dict):
        value = value.get("bytes")
    if not isinstance(value, bytes) or not value:
        raise UserError(f"{where}: no encoded image in the cell")
    return value


def read_compbench(folder: Path, layout: Layout) -> Labels:
    """Scores `{"question_id": n, "answer": "0.69"}`; image `<prompt>_<n>.png`, n in six digits."""
    found = []
    for file, path in plain.present(folder, layout):
        samples = _samples(folder, layout)
        table: list[Row] = []
        for where, row in tables.read_json_list(path):
            number = int(tables.number(row, "question_id", where=where))
            name = samples.get(number, f"_{number:06d}.png")
            prompt = PurePosixPath(name).stem.rpartition("_")[0]
            table.append((where, {**row, "image": name, "prompt": prompt or None}))
        found.append((file.part, table))
    return rows.labels(found, layout)


def _samples(folder: Path, layout: Layout) -> dict[int, str]:
    """Six-digit number at the end of the name -> file name, over the image folders."""
    samples: dict[int, str] = {}
    for home in (folder / images for images in layout.images):
        for path in sorted(home.iterdir()) if home.is_dir() else ():
            digits = path.stem.rpartition("_")[2]
            if len(digits) == 6 and digits.isdecimal():
                samples.setdefault(int(digits), path.name)
    return samples
