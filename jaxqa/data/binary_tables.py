"""Label files that are not text: Parquet, Excel workbooks, MATLAB arrays."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from jaxqa.data.tables import MAX_TABLE_BYTES, Row, read_bytes
from jaxqa.errors import UserError


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> list[Row]:
    """Rows of a Parquet file, in its own types; all columns, or those of `columns` it has."""
    import pyarrow as pa  # here: it takes a moment to load, and few data sets need it
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            wanted = names if columns is None else [name for name in columns if name in names]
            rows = file.read(columns=wanted).to_pylist()
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"{path}: cannot read the Parquet file: {reason}") from error
    return [(f"{path}, row {number}", row) for number, row in enumerate(rows)]


def read_xlsx(path: Path, *, sheet: str | None = None, header_row: int = 1) -> list[Row]:
    """Rows of an Excel sheet (the first, or `sheet`) below its header in line `header_row`.

    Raises:
        UserError: also where openpyxl is not installed, with how to convert the file.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise UserError(
            f"{path}: reading Excel needs openpyxl, which is not installed: pip install openpyxl, "
            f"or save the sheet as CSV (UTF-8) under {path.with_suffix('.csv')}"
        ) from error
    read_bytes(path)  # bounded, and says what is wrong with the file
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        table = (book[sheet] if sheet else book.worksheets[0]).iter_rows(values_only=True)
        lines = [tuple(cells) for cells in table]
        book.close()
    except (OSError, ValueError, KeyError, IndexError, SyntaxError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot read the workbook: {error}") from error
    return _below_header(lines, path, header_row)


def _below_header(lines: Sequence[tuple[Any, ...]], path: Path, header_row: int) -> list[Row]:
    if len(lines) < header_row:
        raise UserError(f"{path}: {len(lines)} lines, expected a header in line {header_row}")
    header = ["" if cell is None else str(cell).strip() for cell in lines[header_row - 1]]
    rows: list[Row] = []
    for number, cells in enumerate(lines[header_row:], start=header_row + 1):
        if all(cell is None for cell in cells):
            continue
        named = zip(header, cells, strict=False)
        rows.append((f"{path}, line {number}", {name: cell for name, cell in named if name}))
    return rows


def read_mat(path: Path, name: str) -> np.ndarray:
    """One array of a MATLAB file (version 7 or older), flat."""
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise UserError(f"{path}: too large for a label file")
        arrays = scipy.io.loadmat(path)
    except OSError as error:
        raise UserError(f"{path}: cannot read the file: {error.strerror or error}") from error
    except (ValueError, TypeError, NotImplementedError, scipy.io.matlab.MatReadError) as error:
        raise UserError(f"{path}: not a MATLAB file of version 7 or older: {error}") from error
    if name not in arrays:
        found = ", ".join(key for key in arrays if not key.startswith("__"))
        raise UserError(f"{path}: no array {name}; found {found or 'none'}")
    return np.asarray(arrays[name]).ravel()


def unwrap(cell: Any) -> Any:
    """The text or number inside the nested one-element arrays that MATLAB cells become."""
    while isinstance(cell, np.ndarray):
        if cell.size != 1:
            return cell
        cell = cell.ravel()[0]
    return cell
