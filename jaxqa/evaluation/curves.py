"""Which training curves the report shows, under which names."""

import dataclasses

import numpy as np
from markupsafe import Markup

from jaxqa.evaluation import plots
from jaxqa.evaluation.run_files import Series


@dataclasses.dataclass(frozen=True, kw_only=True)
class PanelKind:
    """A curve the report knows.

    Attributes:
      metric: its name in `metrics.jsonl`.
      title: heading.
      caption: what it says.
      parts_prefix: metrics that begin so, and are no kind of their own, are drawn beside it.
      is_schedule: it was set, not measured: no running mean, and its peak is what matters.
    """

    metric: str
    title: str
    caption: str
    parts_prefix: str | None = None
    is_schedule: bool = False


KINDS = (
    PanelKind(metric="loss", title="Loss", caption="what the optimizer lowers"),
    PanelKind(
        metric="reward",
        title="Reward",
        caption="mean of the sampled answers",
        parts_prefix="reward_",
    ),
    PanelKind(
        metric="reward_std",
        title="Reward spread",
        caption="standard deviation within a group",
    ),
    PanelKind(metric="unparsed", title="Unparsed", caption="share of the sampled answers"),
    PanelKind(
        metric="entropy",
        title="Token entropy",
        caption="nats per token",
    ),
    PanelKind(
        metric="kl",
        title="KL",
        caption="nats per token, from the reference policy",
    ),
    PanelKind(
        metric="sampler_gap",
        title="Sampler and trainer",
        caption="mean difference of their log-probabilities of a token, nats",
    ),
    PanelKind(
        metric="completion_length", title="Completion length", caption="tokens per sampled answer"
    ),
    PanelKind(
        metric="learning_rate", title="Learning rate", caption="as scheduled", is_schedule=True
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """One drawn curve.

    Attributes:
      title: heading.
      caption: what one sees.
      parts: (name, how its line is drawn) of the thin lines.
      numbers: means of the first and the last twentieth of the steps; a schedule's peak.
      svg: the figure.
    """

    title: str
    caption: str
    parts: list[tuple[str, str]]
    numbers: str
    svg: Markup


def panels(series: Series, *, colour: str) -> tuple[list[Panel], list[Panel]]:
    """Panels of the known metrics in the order of `KINDS`, and of all others by name."""
    drawn = [kind for kind in KINDS if kind.metric in series]
    taken = {kind.metric for kind in drawn}
    for kind in drawn:
        taken.update(_part_names(kind, series))
    others = [PanelKind(metric=name, title=name, caption="") for name in sorted(series)]
    return (
        [_panel(kind, series, colour) for kind in drawn],
        [_panel(kind, series, colour) for kind in others if kind.metric not in taken],
    )


def significant(value: float) -> str:
    """Three significant digits with a true minus sign; an exponent for the very small and large."""
    if value == 0 or 1e-3 <= abs(value) < 999.5:
        return f"{value:.3g}".replace("-", "−")
    if 999.5 <= abs(value) < 99999.5:
        return f"{value:.0f}".replace("-", "−")
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", "−")


def _panel(kind: PanelKind, series: Series, colour: str) -> Panel:
    points, prefix = series[kind.metric], kind.parts_prefix or ""
    parts = {name.removeprefix(prefix): series[name] for name in _part_names(kind, series)}
    svg = plots.curve(
        points, colour=colour, name=kind.title, smooth=not kind.is_schedule, parts=parts
    )
    return Panel(
        title=kind.title,
        caption=kind.caption,
        parts=list(zip(parts, plots.PART_DASHES, strict=False)),
        numbers=_numbers(kind, np.array([value for _, value in points])),
        svg=Markup(svg),
    )


def _part_names(kind: PanelKind, series: Series) -> list[str]:
    prefix, whole = kind.parts_prefix, {kind.metric for kind in KINDS}
    if prefix is None:
        return []
    return sorted(name for name in series if name.startswith(prefix) and name not in whole)


def _numbers(kind: PanelKind, values: np.ndarray) -> str:
    if kind.is_schedule:
        return f"peak {significant(values.max())}"
    ends = max(1, len(values) // 20)
    return f"{significant(values[:ends].mean())} → {significant(values[-ends:].mean())}"
