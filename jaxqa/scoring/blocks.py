"""Images through a model in blocks of a fixed shape, so that neighbours cannot change a score.

A block has a fixed number of rows, all of one bucket, and a row's bucket follows from the row
alone; what is left over is filled up with copies. So an image is computed in one compiled program
whatever else is scored, and its row does not look at the others.
"""

import collections
import itertools
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

from jaxqa.errors import UserError

Pixels = np.ndarray
Result = TypeVar("Result")

_READY_ROWS = 4  # prepared ahead, per thread


@runtime_checkable
class Row(Protocol):
    """One prepared question."""

    @property
    def bucket(self) -> Hashable:
        """Names the compiled shape; it follows from the row alone."""
        ...


@runtime_checkable
class Asker(Protocol, Generic[Result]):
    """Asks a model one kind of question, in blocks of `rows` rows."""

    @property
    def rows(self) -> int:
        """Rows of every block."""
        ...

    def prepare(self, pictures: Sequence[Pixels], prompt: str | None) -> Row:
        """Lay out one question on the host; called in any thread.

        Raises:
          UserError: the pictures or the text cannot be used.
        """
        ...

    def dispatch(self, rows: Sequence[Any]) -> Any:
        """Start computing at most `rows` rows of one bucket."""
        ...

    def collect(self, running: Any) -> list[Result]:
        """Wait for a block; one result per dispatched row."""
        ...

    def failed(self, error: str, /) -> Result:
        """The result of a row that could not be prepared."""
        ...


@runtime_checkable
class Rehearsing(Protocol):
    """An asker of which not every image, nor every answer, runs all programs."""

    def shapes(self, row: Any) -> Sequence[Row]:
        """The row in its own compiled shape and in each larger one."""
        ...

    def rehearse(self, running: Any) -> None:
        """Run what `collect` would run on some answer, so that it is compiled."""
        ...


@runtime_checkable
class Query(Protocol):
    """One question before it is prepared."""

    @property
    def prompt(self) -> str | None:
        """Text that the question is about, if any."""
        ...

    def load(self) -> Sequence[Pixels]:
        """The pictures; UserError where there are none."""
        ...


def answer_all(
    asker: Asker[Result], queries: Iterable[Query], *, workers: int, blocks: int
) -> Generator[tuple[int, Result], None, None]:
    """Yield (number, result) for every query, in the order in which they are ready.

    Queries are taken as they are needed, so they may be endless, and what is held in memory does
    not grow with their number.

    Args:
      asker: asks the model.
      queries: taken one by one.
      workers: threads that read and prepare pictures.
      blocks: how many blocks may be on the device at a time.
    """
    waiting: dict[Hashable, list[tuple[int, Row]]] = {}
    running: collections.deque[tuple[list[int], Any]] = collections.deque()

    def start(bucket: Hashable) -> None:
        full = waiting.pop(bucket)
        running.append(([n for n, _ in full], asker.dispatch([row for _, row in full])))

    def finish() -> Iterator[tuple[int, Result]]:
        numbers, block = running.popleft()
        yield from zip(numbers, asker.collect(block), strict=True)

    for number, prepared in _prepared(asker, queries, workers):
        try:
            row = prepared()
        except UserError as error:
            yield number, asker.failed(str(error))
            continue
        waiting.setdefault(row.bucket, []).append((number, row))
        if len(waiting[row.bucket]) == asker.rows:
            start(row.bucket)
        while len(running) >= blocks:
            yield from finish()
    for bucket in list(waiting):
        start(bucket)
        while len(running) >= blocks:
            yield from finish()
    while running:
        yield from finish()


def _prepared(
    asker: Asker[Any], queries: Iterable[Query], workers: int
) -> Generator[tuple[int, Callable[[], Row]], None, None]:
    """Number and prepared row of each query, in order; made in threads, some ahead."""
    ahead: collections.deque[tuple[int, Future[Row]]] = collections.deque()
    numbered = enumerate(queries)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
    try:
        for number, query in itertools.islice(numbered, workers * _READY_ROWS):
            ahead.append((number, pool.submit(_prepare, asker, query)))
        while ahead:
            number, future = ahead.popleft()
            yield number, future.result
            for later, query in itertools.islice(numbered, 1):
                ahead.append((later, pool.submit(_prepare, asker, query)))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _prepare(asker: Asker[Any], query: Query) -> Row:
    return asker.prepare(query.load(), query.prompt)
