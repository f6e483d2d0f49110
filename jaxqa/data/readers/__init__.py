"""One reader per file format; which data set uses which is in `jaxqa.data.catalogue`."""

from collections.abc import Callable, Mapping
from pathlib import Path

from jaxqa.data.layouts import Layout
from jaxqa.data.readers import (
    aadb,
    artimuse,
    ava,
    csiq,
    generated,
    kadid,
    koniq,
    livec,
    own_table,
    pipal,
    plain,
    pyiqa,
)
from jaxqa.data.records import Labels

Reader = Callable[[Path, Layout], Labels]

READERS: Mapping[str, Reader] = {
    "csv": plain.read_csv,
    "columns": plain.read_columns,
    "json": plain.read_json,
    "json_lines": plain.read_json_lines,
    "xlsx": plain.read_xlsx,
    "pyiqa": pyiqa.read,
    "own": own_table.read,
    "aadb": aadb.read,
    "artimuse": artimuse.read,
    "ava": ava.read,
    "compbench": generated.read_compbench,
    "csiq": csiq.read,
    "evalmuse": generated.read_evalmuse,
    "genai_bench": generated.read_genai_bench,
    "genai_parquet": generated.read_genai_parquet,
    "kadid": kadid.read,
    "koniq": koniq.read,
    "livec": livec.read,
    "pipal": pipal.read,
}
"""Name in a layout -> function that reads all label rows of a data set's folder."""
