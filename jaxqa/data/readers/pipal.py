"""PIPAL: one text file of labels per reference, lines `A0001_00_00.bmp,1520.0648` (Elo)."""

from pathlib import Path

from jaxqa.data import tables
from jaxqa.data.layouts import Layout
from jaxqa.data.readers import plain, rows
from jaxqa.data.records import Labels
from jaxqa.errors import UserError


def read(folder: Path, layout: Layout) -> Labels:
    """Rows of all label files of the folder, in the order of their names."""
    home = plain.present(folder, layout)[0][1]
    files = sorted(path for path in home.iterdir() if path.suffix.lower() == ".txt")
    if not files:
        raise UserError(f"{home}: no label files A*.txt")
    header = ("image", "elo")
    found = [(None, tables.read_csv(path, header=header)) for path in files]
    return rows.labels(found, layout)
