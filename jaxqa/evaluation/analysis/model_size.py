"""Accuracy against the number of parameters (RALI, figure 1)."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from jaxqa.errors import UserError
from jaxqa.evaluation.analysis import pictures


def draw(
    figures: Sequence[Mapping[str, str]],
    parameters: Mapping[str, float],
    *,
    dataset: str,
    metric: str = "srcc",
) -> tuple[Figure, list[pictures.Row]]:
    """A point for each model; `figures` are the rows of a benchmark's CSV file.

    Args:
      parameters: model -> number of parameters.
      dataset: a data set of the table, or the name of an average.

    Raises:
      UserError: no figure for a model.
    """
    protocol = figures[0]["protocol"] if figures else ""
    found = {
        row["model"]: float(row["value"])
        for row in figures
        if (row["dataset"], row["metric"], row["protocol"]) == (dataset, metric, protocol)
        and row["value"]
    }
    if missing := sorted(parameters.keys() - found.keys()):
        raise UserError(
            f"no {metric} of {', '.join(missing)} on {dataset} in the table; it has "
            f"{', '.join(sorted(found)) or 'none'}"
        )
    figure, (axis,) = pictures.panels(1, size=(3.6, 2.6))
    rows = []
    for place, (name, count) in enumerate(sorted(parameters.items(), key=lambda item: item[1])):
        colour = pictures.COLOURS[place % len(pictures.COLOURS)]
        axis.scatter([count], [found[name]], s=42, color=colour, zorder=3)
        axis.annotate(
            name, (count, found[name]), (0, 6), textcoords="offset points", ha="center", fontsize=7
        )
        rows.append({"model": name, "parameters": count, metric: found[name]})
    axis.set(xscale="log", xlabel="parameters", ylabel=f"{metric.upper()} on {dataset}")
    axis.margins(x=0.25, y=0.25)
    axis.grid(True)
    return figure, rows
