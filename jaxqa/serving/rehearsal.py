"""Before the server listens, everything that a request may run is run once, and so compiled.

A picture that a model finds nothing to say about must leave nothing uncompiled: an asker whose
programs depend on the answer is asked to run all of them, see `blocks.Rehearsing`.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxqa.errors import UserError
from jaxqa.scoring.blocks import Asker, Rehearsing, Row
from jaxqa.serving.batcher import Batcher

Size = tuple[int, int]

_SMALLEST = (28, 28)
_WORDS = 80  # of a text that an image was made from; most generators read no more


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Something that is asked.

    Attributes:
      name: what it is called.
      asker: who asks.
      pictures: how many it is shown.
      asks_for_text: whether there is a text to each question.
    """

    name: str
    asker: Asker[Any]
    pictures: int = 1
    asks_for_text: bool = False

    def rows(self, size: Size) -> list[Row]:
        """Grey pictures in each shape that texts of up to `_WORDS` words need; the shortest first.

        Raises:
          UserError: pictures of this size cannot be asked about.
        """
        pictures = [np.full((*size, 3), 127, np.uint8)] * self.pictures
        if not self.asks_for_text:
            return [self.asker.prepare(pictures, None)]
        row, last = (self.asker.prepare(pictures, "word " * words) for words in (1, _WORDS))
        shapes = self.shapes(row)
        if len(shapes) == 1:
            return shapes
        return shapes[: [shape.bucket for shape in shapes].index(last.bucket) + 1]

    def shapes(self, row: Row) -> list[Row]:
        """The row in its own compiled shape and in each larger one."""
        return [*self.asker.shapes(row)] if isinstance(self.asker, Rehearsing) else [row]


def rehearse(
    batcher: Batcher,
    parts: Iterable[Part],
    sizes: Sequence[Size] | None,
    tell: Callable[[str], None],
) -> None:
    """Run the parts with images of these sizes (height, width); None is every compiled shape.

    Raises:
      UserError: a part cannot be asked about such an image.
    """
    for part in parts:
        for what, row in _rows(part, sizes):
            begun = time.monotonic()
            (future,) = batcher.submit(_OneRow(part.asker, row), [_Nothing()])
            future.result()
            tell(f"compiled {part.name} for {what} in {time.monotonic() - begun:.1f} s")


def _rows(part: Part, sizes: Sequence[Size] | None) -> Iterator[tuple[str, Row]]:
    if sizes is None:
        shapes = part.shapes(part.rows(_SMALLEST)[0])
        yield from ((f"shape {n} of {len(shapes)}", row) for n, row in enumerate(shapes, 1))
        return
    for height, width in sizes:
        what = f"{width} x {height} pixels"
        try:
            rows = part.rows((height, width))
        except UserError as error:
            raise UserError(f"warm-up with {what}: {error}") from error
        yield what, rows[0]
        yield from ((f"{what} and a longer text", row) for row in rows[1:])


@dataclasses.dataclass(frozen=True)
class _Nothing:
    """See `blocks.Query`."""

    prompt: str | None = None

    def load(self) -> list[np.ndarray]:
        return []


class _OneRow:
    """Asks about a row that is laid out already, and rehearses; see `blocks.Asker`."""

    def __init__(self, asker: Asker[Any], row: Row):
        self._asker, self._row, self.rows = asker, row, asker.rows

    def prepare(self, pictures: Sequence[np.ndarray], prompt: str | None) -> Row:
        return self._row

    def dispatch(self, rows: Sequence[Any]) -> Any:
        return self._asker.dispatch(rows)

    def collect(self, running: Any) -> list[Any]:
        found = self._asker.collect(running)
        if isinstance(self._asker, Rehearsing):
            self._asker.rehearse(running)
        return found

    def failed(self, error: str, /) -> Any:
        return self._asker.failed(error)
