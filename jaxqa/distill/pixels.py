"""Images to the squares that an image tower sees, prepared by parallel workers ahead of time."""

import collections
import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from jaxqa import processes
from jaxqa.data import images as images_lib
from jaxqa.data.images import ImageSource
from jaxqa.errors import UserError
from jaxqa.models.clip.config import ClipConfig
from jaxqa.models.clip.preprocess import prepare_image
from jaxqa.sharding import WHOLE, RowShare
from jaxqa.typing import UInt8

_READY_BLOCKS = 3
"""Blocks in preparation at once: one computes, one is ready, one is made."""

Source = ImageSource | np.ndarray
"""An encoded image, or RGB pixels, uint8 [h w 3]."""


def prepare(source: Source, config: ClipConfig, *, name: str | None = None) -> np.ndarray:
    """Decode an image (unless it is pixels already), resize and crop it: uint8 [side side 3].

    Raises:
        UserError: no image there, or of extreme shape; the message begins with its name.
    """
    if isinstance(source, np.ndarray):
        name = "image" if name is None else name
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            raise UserError(
                f"{name}: pixels are {source.dtype} {list(source.shape)}, expected uint8 [h, w, 3]"
            )
        return prepare_image(source, config, name=name)
    if name is None:
        name = f"<{len(source)} bytes>" if isinstance(source, bytes) else str(source)
    return prepare_image(images_lib.decode(source, name=name), config, name=name)


class ImagePool:
    """Threads that prepare images; Pillow decodes and resizes without Python's lock."""

    def __init__(self, config: ClipConfig, *, workers: int):
        """Start up to `workers` threads, at the first image."""
        if workers < 1:
            raise ValueError(f"workers is {workers}; expected at least 1")
        self._config = config
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="images")

    def submit(self, source: Source, *, name: str | None = None) -> Future[np.ndarray]:
        """Begin to prepare one image; the result or its UserError is in the future."""
        return self._threads.submit(prepare, source, self._config, name=name)

    def close(self) -> None:
        """Stop; images that nobody waits for are dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, kw_only=True)
class Block:
    """Images of one compiled shape.

    Attributes:
        pixels: uint8 [rows side side 3], this process's rows; zeros where there is no image.
        errors: per image (not per padding row), why it could not be read, or None.
    """

    pixels: np.ndarray
    errors: tuple[str | None, ...]


def blocks(
    sources: Iterable[Source],
    config: ClipConfig,
    *,
    size: int,
    workers: int,
    share: RowShare = WHOLE,
) -> Iterator[Block]:
    """Yield prepared images in order, `size` at a time, the last block padded.

    Images that cannot be read become errors; the others go on. Of every block only the images of
    the process's `share` are prepared; all processes learn all errors.
    """
    mine = share.rows(size)
    pool = ImagePool(config, workers=workers)
    try:
        waiting: collections.deque[_Waiting] = collections.deque()
        rest = iter(sources)
        while True:
            while len(waiting) < _READY_BLOCKS:
                group = list(itertools.islice(rest, size))
                if not group:
                    break
                rows = mine[mine < len(group)]
                waiting.append((rows, [pool.submit(group[row]) for row in rows]))
            if not waiting:
                return
            yield _gather(*waiting.popleft(), config, len(mine))
    finally:
        pool.close()


_Waiting = tuple[np.ndarray, list[Future[np.ndarray]]]
"""Rows of a block, and the image of each."""


def _gather(
    rows: np.ndarray, group: list[Future[np.ndarray]], config: ClipConfig, size: int
) -> Block:
    side = config.vision.image_size
    pixels: UInt8[np.ndarray, "size side side 3"] = np.zeros((size, side, side, 3), np.uint8)
    errors: list[str | None] = []
    for row, future in enumerate(group):
        try:
            pixels[row] = future.result()
            errors.append(None)
        except UserError as error:
            errors.append(str(error))
    return Block(pixels=pixels, errors=tuple(processes.exchange_rows(errors, rows)))
