"""Images inside a prepared data set (ArrayRecord), read one at a time."""

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

from jaxqa.errors import UserError

TFDS_SPLIT = "images"
"""The one split of the TensorFlow Datasets builder of each part."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredImage:
    """One image of a prepared data set: small, picklable, read when asked.

    Attributes:
        folder: Folder of the TensorFlow Datasets builder.
        record: Number of the record in it.
        place: Number of the image in the record.
        name: The image's file as the label file wrote it.
        size: Height and width of the upright image.
    """

    folder: str
    record: int
    place: int
    name: str
    size: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.folder}, record {self.record} ({self.name})"

    def read_bytes(self) -> bytes:
        """The encoded image.

        Raises:
            UserError: the prepared files are damaged or gone.
        """
        try:
            return _source(self.folder, os.getpid())[self.record]["images"][self.place]
        except (OSError, ValueError, LookupError, RuntimeError) as error:
            raise UserError(
                f"{self}: cannot read the prepared image: {error}; prepare the data set again"
            ) from error


@functools.lru_cache(maxsize=64)
def _source(folder: str, process: int) -> Any:
    """Open data source; per process, because its descriptors and threads do not survive a fork."""
    del process
    import tensorflow_datasets as tfds  # here: loading it takes a moment, and few need it

    builder: Any = tfds.builder_from_directory(Path(folder))
    return builder.as_data_source(TFDS_SPLIT)
