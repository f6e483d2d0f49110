"""Readers of whole tables: what the columns mean is the layout's business.

Options of a layout: `delimiter`, `header` and `skip_header` of CSV files; `header` and `optional`
of columns separated by blanks; `sheet` and `header_row` of Excel.
"""

from collections.abc import Callable
from pathlib import Path

from jaxqa.data import binary_tables, tables
from jaxqa.data.layouts import LabelFile, Layout
from jaxqa.data.readers import rows
from jaxqa.data.records import Labels
from jaxqa.data.tables import Row

Table = Callable[[Path, Layout], list[Row]]


def present(folder: Path, layout: Layout) -> list[tuple[LabelFile, Path]]:
    """The layout's label files that are there."""
    found = [(file, find(folder, file)) for file in layout.files]
    return [(file, path) for file, path in found if path is not None]


def find(folder: Path, file: LabelFile) -> Path | None:
    """The first of a label file's places at which it lies."""
    return next((folder / path for path in file.paths if (folder / path).exists()), None)


def _reader(table: Table) -> Callable[[Path, Layout], Labels]:
    def read(folder: Path, layout: Layout) -> Labels:
        found = present(folder, layout)
        return rows.labels([(file.part, table(path, layout)) for file, path in found], layout)

    return read


def _csv(path: Path, layout: Layout) -> list[Row]:
    needed = [*layout.columns.image[:1], *layout.columns.score[:1]]
    return tables.read_csv(path, needed, **layout.options)


def _columns(path: Path, layout: Layout) -> list[Row]:
    return tables.read_columns(path, **layout.options)


def _json(path: Path, layout: Layout) -> list[Row]:
    del layout
    return [(where, rows.with_label(row)) for where, row in tables.read_json_list(path)]


def _xlsx(path: Path, layout: Layout) -> list[Row]:
    return binary_tables.read_xlsx(path, **layout.options)


read_csv = _reader(_csv)
read_columns = _reader(_columns)
read_json = _reader(_json)
read_json_lines = _reader(lambda path, layout: tables.read_json_lines(path))
read_xlsx = _reader(_xlsx)
