"""A page with the rationales of several models side by side, where they disagree most."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from jaxqa.data.registry import dataset_info
from jaxqa.errors import UserError
from jaxqa.evaluation import gallery
from jaxqa.evaluation.evaluator import Prediction
from jaxqa.evaluation.table import MISSING, format_number

Item = Mapping[str, Any]


def select(
    models: Mapping[str, Sequence[Prediction]], *, limit: int = 24
) -> tuple[list[Item], int]:
    """Images that every model was asked about, those with the largest spread of scores first.

    An image for which a model gave no score comes before those for which all did.

    Returns:
      at most `limit` items, and how many images there are.

    Raises:
      UserError: the models were asked about different images.
    """
    by_model = {name: {p.example_id: p for p in given} for name, given in models.items()}
    shared = set.intersection(*(set(answers) for answers in by_model.values()))
    if not shared:
        raise UserError(f"{', '.join(models)} share no image; compare answers to the same data set")
    items = [_item({name: answers[i] for name, answers in by_model.items()}) for i in shared]
    items.sort(key=lambda item: (-item["failed"], -(item["spread"] or 0.0), item["image"]))
    return items[:limit], len(items)


def render(items: Sequence[Item], total: int) -> str:
    """The whole page as HTML, pictures inside; everything a model wrote is escaped."""
    folder = resources.files("jaxqa.evaluation.analysis")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(folder.joinpath("comparison.html.jinja").read_text("utf-8"))
    shown = [
        {
            "name": Path(item["image"]).name,
            "thumbnail": gallery.thumbnail(Path(), item["image"]),
            "label": format_number(item["label"], 2),
            "spread": format_number(item["spread"], 2),
            "answers": [
                answer | {"score": format_number(answer["score"], 2)} for answer in item["answers"]
            ],
        }
        for item in items
    ]
    synthetic = any(dataset_info(item["dataset"]).synthetic for item in items)
    return template.render(items=shown, total=total, synthetic=synthetic, missing=MISSING)


def _item(answers: Mapping[str, Prediction]) -> Item:
    first = next(iter(answers.values()))
    scores = [p.score for p in answers.values() if p.score is not None]
    return {
        "image": first.image,
        "dataset": first.dataset,
        "label": first.label,
        "failed": len(answers) - len(scores),
        "spread": max(scores) - min(scores) if scores else None,
        "answers": [
            {
                "model": name,
                "score": prediction.score,
                "error": prediction.error,
                "rationale": gallery.rationale(prediction.text),
            }
            for name, prediction in answers.items()
        ],
    }
