"""Pictures of the analyses: one style, and the numbers of each beside it."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxqa.errors import UserError
from jaxqa.evaluation.plots import LABEL_COLOUR, STAGE_COLOURS, STYLE
from jaxqa.train.json_lines import replacing

SUFFIXES = (".png", ".svg", ".pdf")
COLOURS = STAGE_COLOURS
GREY = LABEL_COLOUR

_MARKERS = "osD^v"

Row = Mapping[str, Any]


def look(place: int) -> dict[str, Any]:
    """Colour and marker of the `place`-th of several series; as pairs they repeat late."""
    marker = _MARKERS[place // len(COLOURS) % len(_MARKERS)]
    return {"color": COLOURS[place % len(COLOURS)], "marker": marker}


def panels(count: int, *, size: tuple[float, float], columns: int = 3) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes in rows of at most `columns`."""
    columns = min(count, columns)
    rows = -(-count // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
        for unused in axes[count:]:
            figure.delaxes(unused)
    return figure, axes[:count]


def check_path(path: Path) -> None:
    """UserError unless the suffix is one of `SUFFIXES`."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: expected a picture that ends in {', '.join(SUFFIXES)}")


def write(path: Path, figure: Figure, rows: Sequence[Row]) -> Path:
    """Write the picture, and its numbers as CSV beside it; returns the path of the numbers.

    Raises:
      UserError: an unknown suffix, or the disk refuses.
    """
    check_path(path)
    picture = io.BytesIO()
    style: dict[Any, Any] = {**STYLE, "svg.hashsalt": "jaxqa"}  # the same ids in every run
    with rc_context(style):
        figure.savefig(picture, format=path.suffix[1:], dpi=200, metadata=_nothing(path.suffix))
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]) if rows else ["nothing"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    data = path.with_suffix(".csv")
    for target, content in ((path, picture.getvalue()), (data, table.getvalue().encode())):
        with replacing(target) as file:
            file.write(content)
    return data


def _nothing(suffix: str) -> dict[str, None]:
    """Metadata that would differ from run to run, left out."""
    names = {".png": ("Software",), ".svg": ("Date",), ".pdf": ("CreationDate", "Producer")}
    return dict.fromkeys(names[suffix])
