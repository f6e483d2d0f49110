"""Where a rationale could have gone another way: its tokens, shaded by entropy (OmniQuality-R).

The gate of its second phase trains on the tokens of highest entropy only; they are framed.
"""

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxqa.evaluation.analysis import pictures
from jaxqa.evaluation.analysis.replay import TokenFacts
from jaxqa.evaluation.plots import STYLE

_SHADES = ListedColormap(colormaps["Oranges"](np.linspace(0, 0.75, 256)))  # black is legible on all
_COLUMNS = 88
_LEAST = 0.1  # nats: where all entropies are below, none is shaded as if the model were unsure
_CHARACTER, _LINE = 0.075, 0.2  # inches


def draw(facts: TokenFacts, *, title: str, top: float = 0.2) -> tuple[Figure, list[pictures.Row]]:
    """The text with a shade for each token, and rows of (place, token, entropy, log-probability).

    Args:
      top: share of the tokens that are framed, those of highest entropy.
    """
    threshold = float(np.quantile(facts.entropies, 1 - top))
    highest = max(float(facts.entropies.max()), _LEAST)
    scale = Normalize(0, highest)
    places = _places(facts.texts)
    lines = 1 + max(line for spans in places for line, _, _ in spans)
    height = _LINE * (lines + 3.5)
    figure = Figure(figsize=(_CHARACTER * (_COLUMNS + 4), height))
    axis = figure.add_axes((0.02, 0.55 / height, 0.96, 1 - 0.85 / height))
    axis.set(xlim=(0, _COLUMNS), ylim=(lines, 0))
    axis.axis("off")
    axis.set_title(title, loc="left", fontsize=8)
    rows = []
    for place, (spans, text) in enumerate(zip(places, facts.texts, strict=True)):
        entropy = float(facts.entropies[place])
        is_top = entropy >= threshold and entropy > 0
        for line, column, part in spans:
            colour = _SHADES(scale(entropy))
            edge = "#8c2d04" if is_top else "none"
            box = Rectangle(
                (column, line + 0.06), len(part), 0.88, facecolor=colour, edgecolor=edge
            )
            box.set_linewidth(0.7)
            axis.add_patch(box)
            for offset, character in enumerate(part):
                axis.text(
                    column + offset + 0.5,
                    line + 0.54,
                    character,
                    family="monospace",
                    fontsize=7.5,
                    ha="center",
                    va="center",
                    parse_math=False,
                )
        rows.append(
            {
                "place": place,
                "token": text,
                "entropy": entropy,
                "log_prob": float(facts.log_probs[place]),
                "top": is_top,
            }
        )
    with rc_context(STYLE):
        bar = figure.add_axes((0.02, 0.34 / height, 0.3, 0.09 / height))
        ends = (0.0, highest / 2, highest)
        figure.colorbar(
            ScalarMappable(scale, _SHADES),
            cax=bar,
            orientation="horizontal",
            ticks=ends,
            format=lambda value, _: f"{value:.2g}",
        )
        bar.tick_params(labelsize=6)
        bar.set_title(
            f"entropy in nats; framed: top {100 * top:g} %", fontsize=6, loc="left", pad=2
        )
    return figure, rows


def _places(texts: list[str]) -> list[list[tuple[int, int, str]]]:
    """Line, column and text of each token's parts; a token is broken at line ends and new lines."""
    places, line, column = [], 0, 0
    for text in texts:
        spans: list[tuple[int, int, str]] = []
        for number, piece in enumerate(text.replace("\t", " ").split("\n")):
            if number:
                spans.append((line, column, "↵"))
                line, column = line + 1, 0
            if column + len(piece) > _COLUMNS and len(piece) <= _COLUMNS:
                line, column = line + 1, 0
            while piece:
                part, piece = piece[: _COLUMNS - column], piece[_COLUMNS - column :]
                spans.append((line, column, part))
                column += len(part)
                if column >= _COLUMNS - 1:
                    line, column = line + 1, 0
        places.append(spans)
    return places
