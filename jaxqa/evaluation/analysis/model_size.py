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
    figure, (axis,) = pictures.panels(1, size=(5.2, 2.6))
    rows = []
    for place, (name, count) in enumerate(sorted(parameters.items(), key=lambda item: item[1])):
        axis.scatter([count], [found[name]], s=42, zorder=3, label=name, **pictures.look(place))
        rows.append({"model": name, "parameters": count, metric: found[name]})
    axis.set(xscale="log", xlabel="parameters", ylabel=f"{metric.upper()} on {dataset}")
    axis.margins(x=0.25, y=0.25)
    axis.grid(True)
    handles, names = axis.get_legend_handles_labels()  # from the most accurate down
    order = sorted(range(len(names)), key=lambda place: -found[names[place]])
    axis.legend(
        [handles[place] for place in order],
        [names[place] for place in order],
        frameon=False,
        fontsize=6.5,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
    )
    return figure, rows
