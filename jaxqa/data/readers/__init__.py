"""One reader per file format; which data set uses which is a row in `jaxqa.data.registry`."""

from collections.abc import Callable, Mapping
from pathlib import Path

from jaxqa.data.readers import kadid
from jaxqa.data.records import LabelledImage

Reader = Callable[[Path], list[LabelledImage]]

READERS: Mapping[str, Reader] = {"kadid": kadid.read}
"""Format name -> function that reads all label rows of a data set's folder."""

LABEL_FILES: Mapping[str, str] = {"kadid": kadid.LABELS}
"""Format name -> file by which a folder is recognised."""
