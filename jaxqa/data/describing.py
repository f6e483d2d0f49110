"""The registry in words, for `jaxqa data list`."""

from collections.abc import Iterator, Mapping

from jaxqa.data import registry
from jaxqa.data.records import UNSCORED, DatasetInfo


def table() -> Iterator[str]:
    """One line per data set."""
    rows = [("name", "task", "images", "range", "better", "splits"), *map(_cells, _infos())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        yield "  ".join([*cells, row[-1]]).rstrip()
    yield ""
    yield "`list NAME` says more. Tables of yours: file:PATH#range=LOW..HIGH[,task=TASK,...]"


def one(name: str) -> Iterator[str]:
    """Everything that the registry knows of one data set."""
    info = registry.dataset_info(name)
    low, high = info.label_range
    yield f"{info.name} ({info.task})"
    yield f"label      {info.label_name}, {low:g} to {high:g}, {_direction(info)} is better"
    if info.measured_range:
        yield f"measured   {info.measured_range[0]:g} to {info.measured_range[1]:g}"
    if info.deviation:
        yield f"deviation  {info.deviation}"
    if info.synthetic:
        yield "synthetic  labels are computed, no person gave them"
    yield f"images     {info.count or 'number unknown'}"
    yield f"folders    {', '.join((info.name, *info.folders))}, or the data root itself"
    for layout in info.layouts:
        files = "; ".join(" or ".join(file.paths) for file in layout.files)
        yield f"layout     {layout.name}: {files}"
    if info.own_counts:
        yield f"split      official: assigned by the files ({_counts(info.own_counts)})"
    for scheme, split in info.splits.items():
        counts = f" ({_counts(split.counts)})" if split.counts else ""
        yield f"split      {scheme}: {split.source}{counts}"
    for note in info.notes:
        yield f"note       {note}"
    yield f"licence    {info.licence}"
    yield f"cite       {info.citation}"
    yield f"homepage   {info.homepage}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{part} {count}" for part, count in counts.items())


def _infos() -> Iterator[DatasetInfo]:
    yield from registry.DATASETS.values()


def _cells(info: DatasetInfo) -> tuple[str, ...]:
    low, high = info.label_range
    splits = ["official"] if _has_own_split(info) else []
    names = ", ".join(dict.fromkeys([*splits, *info.splits]))
    span = f"{low:g}..{high:g}" if info.task not in UNSCORED else "-"
    count = str(info.count) if info.count else "?"
    return (info.name, info.task, count, span, _direction(info), names or "own, if any")


def _has_own_split(info: DatasetInfo) -> bool:
    """Whether the files of some layout assign the data set's own split."""
    return any(
        layout.columns.part or (layout.split == "official" and any(f.part for f in layout.files))
        for layout in info.layouts
    )


def _direction(info: DatasetInfo) -> str:
    return "higher" if info.higher_is_better else "lower"
