"""A self-contained contact sheet: every prompt's candidates, round by round, and the study.

As the report of a run, the page makes no request and runs no script, and its content security
policy forbids both. Every text in it is escaped.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from jaxqa.evaluation import gallery
from jaxqa.evaluation.report import clean
from jaxqa.selection.candidates import Candidate, Selection
from jaxqa.selection.panel import Weights
from jaxqa.selection.tables import Table, number

_FOLDER = Path(__file__).parent
_SIDE = 208
_MOST_TILES = 24


def render(
    selections: Sequence[Selection],
    weights: Weights,
    *,
    title: str,
    tables: Sequence[Table] = (),
    shown: int = 50,
) -> str:
    """The page as text.

    Args:
      selections: of `run.best_of_n`.
      weights: of the judges.
      title: of the page.
      tables: shown above the pictures.
      shown: prompts with pictures; the page says how many are left out.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"clean": clean}
    failed = sum(c.combined(weights) is None for s in selections for c in s.candidates)
    return environment.get_template("sheet.html.jinja").render(
        css=Markup((_FOLDER / "sheet.css").read_text("utf-8")),
        title=title,
        weights={name: f"{weight:g}" for name, weight in weights.items()},
        candidates=sum(len(s.candidates) for s in selections),
        failed=failed,
        prompts=len(selections),
        without=[s.prompts for s in selections if s.best(weights) is None],
        left_out=max(0, len(selections) - shown),
        tables=tables,
        selections=[_section(s, weights) for s in selections[:shown]],
    )


def _section(selection: Selection, weights: Weights) -> dict[str, Any]:
    best = selection.best(weights)
    rounds = sorted({candidate.round for candidate in selection.candidates})
    return {
        "key": selection.prompts.key,
        "prompt": selection.prompts.prompt,
        "stopped": selection.stopped,
        "rationales": _rationales(best),
        "rounds": [_round(selection, number, best, weights) for number in rounds],
    }


def _round(
    selection: Selection, number: int, best: Candidate | None, weights: Weights
) -> dict[str, Any]:
    """The candidates of a round, the best first; those without a score at the end."""
    among = [c for c in selection.candidates if c.round == number]
    among.sort(key=lambda c: -(c.combined(weights) or -math.inf), reverse=False)
    return {
        "number": number,
        "instruction": among[0].instruction,
        "tiles": [_tile(c, c is best, weights) for c in among[:_MOST_TILES]],
        "hidden": max(0, len(among) - _MOST_TILES),
    }


def _tile(candidate: Candidate, chosen: bool, weights: Weights) -> dict[str, Any]:
    combined = candidate.combined(weights)
    picture = None
    if candidate.path is not None:
        picture = gallery.thumbnail(Path(), candidate.path, side=_SIDE)
    return {
        "picture": picture,
        "number": candidate.number,
        "chosen": chosen,
        "combined": None if combined is None else f"{combined:.3f}",
        "scores": [
            {
                "name": name,
                "share": round(100 * (score["normalised"] or 0.0), 1),
                "text": number(score["score"], 2),
            }
            for name, score in candidate.scores.items()
        ],
        "error": candidate.why_unscored(weights),
    }


def _rationales(best: Candidate | None) -> list[tuple[str, str]]:
    if best is None:
        return []
    found = ((name, score.get("rationale") or "") for name, score in best.scores.items())
    return [(name, text) for name, text in found if text]
