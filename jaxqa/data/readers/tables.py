"""Bounded, validated reading of label files: CSV with a header, and JSON lines.

Every failure is a UserError that names the file and, where there is one, the line.
"""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxqa.errors import UserError

MAX_TABLE_BYTES = 256 * 2**20


def read_text(path: Path) -> str:
    """UTF-8 text of a label file, with or without a byte-order mark."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TABLE_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot read the file: {error.strerror or error}") from error
    if len(raw) > MAX_TABLE_BYTES:
        raise UserError(f"{path}: larger than {MAX_TABLE_BYTES} bytes, too large for a label file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text; byte {error.start} is none") from error


def read_csv(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Rows of a comma-separated file as (line number, {column: stripped text}).

    The header must hold `columns`, in any order; further columns are ignored, blank lines too.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows = []
    try:
        header = [cell.strip() for cell in next(reader, [])]
        missing = [column for column in columns if column not in header]
        if missing:
            raise UserError(
                f"{path}: missing columns {', '.join(missing)}; "
                f"found {', '.join(header) or 'no header'}, expected {', '.join(columns)}"
            )
        places = {column: header.index(column) for column in columns}
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(cells)} values, "
                    f"expected {len(header)} ({', '.join(header)})"
                )
            row = {column: cells[place].strip() for column, place in places.items()}
            rows.append((reader.line_num, row))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not valid CSV: {error}") from error
    return rows


def parse_number(text: str, *, path: Path, line: int, column: str) -> float:
    """A finite number, or a UserError that says where the bad one stands."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{path}, line {line}: {column} is {text!r}, expected a finite number")
    return number


def read_json_lines(path: Path, keys: Sequence[str]) -> list[tuple[int, dict[str, Any]]]:
    """Objects of a JSON-lines file as (line number, {key: text}); each must hold `keys` as text."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not valid JSON: {error}") from error
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in keys):
            raise UserError(
                f"{path}, line {number}: expected an object with text {', '.join(keys)}"
            )
        rows.append((number, row))
    return rows
