"""Files of scores: a journal while they are made, then a table written whole or not at all."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxqa.errors import UserError
from jaxqa.train.json_lines import JsonLines, encode_line, read_json_lines, replacing

Row = dict[str, Any]

COLUMNS = ("path", "score", "error", "normalised", "spread", "rationale", "prompt", "keep")
"""Of flat tables; those after `error` only where a row has them."""

NUMBERS = {"score", "normalised", "spread"}
"""Columns that hold numbers."""

FORMATS = ("csv", "jsonl", "parquet")

_SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}


def format_of(path: Path) -> str:
    """How a file is written, from its suffix.

    Raises:
      UserError: it has another suffix, or its library is missing.
    """
    kind = _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"--output={path}: expected a name that ends in {', '.join(_SUFFIXES)}")
    if kind == "parquet":
        _parquet()
    return kind


def encode(rows: Sequence[Row], kind: str) -> bytes:
    """The whole file."""
    if kind == "jsonl":
        return b"".join(encode_line(row) for row in rows)
    columns = list(COLUMNS[:3])
    columns += [n for n in COLUMNS[3:] if any(row.get(n) not in (None, "") for row in rows)]
    if kind == "parquet":
        return _encode_parquet(rows, columns)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write a file whole or not at all.

    Raises:
      UserError: the disk refuses.
    """
    data = encode(rows, format_of(path))
    with replacing(path) as file:
        file.write(data)


def read_rows(path: Path) -> list[Row]:
    """Rows of a finished file, whatever its format; what a flat table left empty is None.

    Raises:
      UserError: it is not a file of scores.
    """
    try:
        return [_checked(row) for row in _read(path)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a file of scores: {error}; give --overwrite") from error


def _read(path: Path) -> Iterable[Row]:
    kind = format_of(path)
    if kind == "jsonl":
        return read_json_lines(path)
    if kind == "parquet":
        return _parquet().read_table(path).to_pylist()
    with path.open(encoding="utf-8", newline="") as file:
        return [_typed(row) for row in csv.DictReader(file)]


def _typed(cells: Mapping[str, str]) -> Row:
    """A line of CSV with numbers where numbers were written."""
    row: Row = {name: text if text else None for name, text in cells.items()}
    for name in NUMBERS & row.keys():
        row[name] = None if row[name] is None else float(row[name])
    return row


def _checked(row: Row) -> Row:
    """A row that has all that a row of scores has; KeyError otherwise."""
    _ = row["path"], row["score"], row["error"]
    return row


class Journal:
    """What is scored so far; survives `kill -9` at any moment. A context manager."""

    def __init__(self, output: Path, settings: Mapping[str, Any], *, resume: bool, overwrite: bool):
        """Begin, or go on.

        Args:
          output: the file that the scores are for; the journal stands beside it.
          settings: what scores depend on.
          resume: go on after an earlier run.
          overwrite: throw an earlier run's scores away.

        Raises:
          UserError: there is an earlier run and neither is wanted, or it had other settings.
        """
        self.path = output.with_name(f"{output.name}.partial")
        earlier = [] if overwrite else list(read_json_lines(self.path))
        if overwrite:
            self.path.unlink(missing_ok=True)
        if earlier and not resume:
            raise UserError(
                f"{self.path} holds {len(earlier) - 1} scores of a run that did not finish; give "
                "--resume to go on, or --overwrite to begin again"
            )
        if earlier:
            _check_settings(self.path, earlier[0].get("settings"), settings)
        self.rows: dict[str, Row] = {
            r["key"]: r["row"] for r in earlier[1:] if {"key", "row"} <= r.keys()
        }
        self._file = JsonLines(self.path)
        if not earlier:
            self._file.append([{"settings": dict(settings)}])

    def add(self, key: str, row: Row) -> None:
        """Record one image; each once."""
        self._file.append([{"key": key, "row": row}])
        self.rows[key] = row

    def remove(self) -> None:
        """Delete the journal, once the output stands."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def check_listable(paths: Iterable[str]) -> None:
    """See that `write_paths` can name all of them.

    Raises:
      UserError: it cannot.
    """
    for path in paths:
        if path != path.strip() or path.startswith("#") or "\n" in path or "\r" in path:
            raise UserError(
                f"{path!r}: --keep and --drop write one path a line, where line breaks, blanks at "
                "the ends and # at the start cannot stand; rename it, or give --output=FILE, whose "
                "column keep says the same"
            )


def write_paths(path: Path, paths: Iterable[str]) -> None:
    """A list of images, one a line.

    Raises:
      UserError: the disk refuses.
    """
    with replacing(path) as file:
        for name in paths:
            file.write(f"{name}\n".encode("utf-8", "surrogateescape"))


def _check_settings(path: Path, earlier: Any, settings: Mapping[str, Any]) -> None:
    known = earlier if isinstance(earlier, dict) else {}
    now = json.loads(json.dumps(dict(settings)))
    changed = [name for name in now if known.get(name) != now[name]]
    if changed:
        details = ", ".join(f"{name} {known.get(name)!r}, now {now[name]!r}" for name in changed)
        raise UserError(
            f"{path} was begun with other settings ({details}); repeat them, or give --overwrite"
        )


def _parquet() -> Any:
    try:
        from pyarrow import parquet  # here: it takes a moment to load, and few need it
    except ImportError as error:
        raise UserError(
            "Parquet files need pyarrow: `pip install pyarrow`, or write .csv or .jsonl"
        ) from error
    return parquet


def _utf8(cell: Any) -> Any:
    """The cell; of text that is no UTF-8, such as some names of files, with escapes, as in CSV."""
    return cell.encode("utf-8", "backslashreplace").decode() if isinstance(cell, str) else cell


def _encode_parquet(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    parquet = _parquet()
    import pyarrow

    kinds = {name: pyarrow.float64() for name in NUMBERS} | {"keep": pyarrow.bool_()}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in columns])
    cells = [{name: _utf8(row.get(name)) for name in columns} for row in rows]
    table = pyarrow.Table.from_pylist(cells, schema)
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    return buffer.getvalue()
