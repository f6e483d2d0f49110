"""Bounded, validated reading of label files of every format into rows.

A row is `(where, {column: value})`; `where` names file and line in messages. Text formats give
stripped text, JSON and Parquet their own types; `number` and `text` take either.
Every failure is a UserError that names the file and, where there is one, the line.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxqa.errors import UserError

MAX_TABLE_BYTES = 512 * 2**20

Row = tuple[str, Mapping[str, Any]]


def read_bytes(path: Path) -> bytes:
    """Content of a label file, never more than the limit."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TABLE_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot read the file: {error.strerror or error}") from error
    if len(raw) > MAX_TABLE_BYTES:
        raise UserError(f"{path}: larger than {MAX_TABLE_BYTES} bytes, too large for a label file")
    return raw


def read_text(path: Path) -> str:
    """UTF-8 text of a label file, with or without a byte-order mark."""
    raw = read_bytes(path)
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path}: expected UTF-8 text; byte 0 is none (UTF-16?): save as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: expected UTF-8 text; byte {error.start} is none (Latin-1 or another "
            "encoding?): save as UTF-8"
        ) from error


def read_csv(
    path: Path,
    columns: Sequence[str] = (),
    *,
    delimiter: str = ",",
    header: Sequence[str] = (),
    skip_header: bool = False,
) -> list[Row]:
    """Rows of a delimited file.

    Args:
        path: The file.
        columns: What the header must hold, in any order.
        delimiter: Between the cells.
        header: Names of the columns by position, for files whose header is missing or wrong;
            further columns keep the names of the file's header, if `skip_header`.
        skip_header: The first line is a header although `header` is given.
    """
    reader = csv.reader(
        io.StringIO(read_text(path), newline=""),
        strict=True,
        delimiter=delimiter,
        skipinitialspace=True,
    )
    rows: list[Row] = []
    try:
        names = _header(reader, path, columns, delimiter, header, skip_header)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"{path}, line {reader.line_num}"
            if len(cells) != len(names):
                raise UserError(
                    f"{where}: {len(cells)} values, expected {len(names)} ({', '.join(names)})"
                )
            rows.append((where, {n: cell.strip() for n, cell in zip(names, cells, strict=True)}))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not valid CSV: {error}") from error
    return rows


def _header(
    reader: Iterator[list[str]],
    path: Path,
    columns: Sequence[str],
    delimiter: str,
    header: Sequence[str],
    skip_header: bool,
) -> list[str]:
    if header and not skip_header:
        return list(header)
    found = [cell.strip() for cell in next(reader, [])]
    names = [*header, *found[len(header) :]]
    missing = [column for column in columns if column not in names]
    if missing:
        raise UserError(
            f"{path}: missing columns {', '.join(missing)}; "
            f"found {', '.join(found) or 'no header'}, expected {', '.join(columns)}"
            + delimiter_hint(found, delimiter)
        )
    doubled = sorted({name for name in names if names.count(name) > 1 and name})
    if doubled:
        raise UserError(f"{path}: two columns are called {', '.join(doubled)}")
    return names


def delimiter_hint(found: Sequence[str], delimiter: str) -> str:
    """What to say of a header that is one cell because another delimiter parts it."""
    others = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}
    text = delimiter.join(found)
    for mark, words in others.items():
        if mark != delimiter and mark in text:
            return f"; it seems to be separated by {words}: save it separated by {delimiter!r}"
    return ""


def read_columns(path: Path, header: Sequence[str], *, optional: int = 0) -> list[Row]:
    """Rows of a text file of columns separated by blanks, by position.

    The last `optional` columns of `header` may be missing, in all rows.
    """
    rows: list[Row] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        cells = line.split()
        if not cells:
            continue
        where = f"{path}, line {number}"
        if not len(header) - optional <= len(cells) <= len(header):
            raise UserError(
                f"{where}: {len(cells)} values, expected {len(header)} separated by blanks "
                f"({' '.join(header)})"
            )
        rows.append((where, dict(zip(header, cells, strict=False))))
    return rows


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error


def read_json_list(path: Path) -> list[Row]:
    """Objects of a JSON file that holds a list of them."""
    value = read_json(path)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise UserError(f"{path}: expected a JSON list of objects")
    return [(f"{path}, item {number}", item) for number, item in enumerate(value)]


def read_json_lines(path: Path, keys: Sequence[str] = ()) -> list[Row]:
    """Objects of a JSON-lines file; each must hold `keys` as text."""
    rows: list[Row] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not valid JSON: {error}") from error
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in keys):
            raise UserError(
                f"{where}: expected an object{' with text ' if keys else ''}{', '.join(keys)}"
            )
        rows.append((where, row))
    return rows


def number(row: Mapping[str, Any], column: str, *, where: str) -> float:
    """A finite number of a row, written as a number or as text."""
    value = row.get(column)
    try:
        found = math.nan if value is None or value is True or value is False else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise UserError(f"{where}: {column} is {value!r}, expected a finite number")
    return found


def text(row: Mapping[str, Any], column: str, *, where: str) -> str:
    """Text of a row that is not empty."""
    value = row.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {column} is {value!r}, expected text")
    return value.strip()
