"""A round's images, made one after the other, several in a call, or in several threads."""

import dataclasses
from collections.abc import Generator, Sequence
from concurrent import futures
from pathlib import Path

from jaxqa.selection.candidates import Candidate
from jaxqa.selection.generators import BatchGenerator, Request, produce_several
from jaxqa.selection.generators import Generator as ImageGenerator
from jaxqa.selection.journal import Journal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """An image to make.

    Attributes:
      key: of its prompt.
      wanted: the candidate, which has no path yet, but a seed.
      maker: who makes it.
      output: where it goes.
    """

    key: str
    wanted: Candidate
    maker: ImageGenerator
    output: Path

    @property
    def request(self) -> Request:
        """What the maker is asked."""
        wanted = self.wanted
        assert wanted.seed is not None
        return Request(
            prompt=wanted.instruction,
            seed=wanted.seed,
            number=wanted.number,
            image=None if wanted.start is None else Path(wanted.start),
        )

    def known(self, journal: Journal) -> Candidate | None:
        """The candidate as an earlier run made it, from the same; None if none did."""
        known, wanted = journal.recall(self.key, self.wanted.number), self.wanted
        if known is None or known.path is None or not Path(known.path).is_file():
            return None
        same = (known.instruction, known.start) == (wanted.instruction, wanted.start)
        return known if same else None


def make(
    tasks: Sequence[Task], journal: Journal, jobs: int
) -> Generator[tuple[int, Candidate], None, None]:
    """Yield number and candidate of each task, as they are ready; once closed, give up the rest.

    With one job all is made in this thread, which is where some libraries want to be called.
    """
    known = {place: task.known(journal) for place, task in enumerate(tasks)}
    yield from ((place, candidate) for place, candidate in known.items() if candidate is not None)
    left = [place for place, candidate in known.items() if candidate is None]
    calls = _calls([(place, tasks[place]) for place in left])
    if jobs == 1:
        for call in calls:
            yield from _made(call, journal)
        return
    pool = futures.ThreadPoolExecutor(jobs, thread_name_prefix="make")
    try:
        for done in futures.as_completed([pool.submit(_made, call, journal) for call in calls]):
            yield from done.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for maker in {id(task.maker): task.maker for task in tasks}.values():
            maker.cancel()
        raise
    finally:
        pool.shutdown(wait=True)


def _calls(tasks: Sequence[tuple[int, Task]]) -> list[list[tuple[int, Task]]]:
    """Neighbours that one call of their maker can make."""
    calls: list[list[tuple[int, Task]]] = []
    for place, task in tasks:
        room = task.maker.at_once if isinstance(task.maker, BatchGenerator) else 1
        if calls and len(calls[-1]) < room and calls[-1][0][1].maker is task.maker:
            calls[-1].append((place, task))
        else:
            calls.append([(place, task)])
    return calls


def _made(call: Sequence[tuple[int, Task]], journal: Journal) -> list[tuple[int, Candidate]]:
    """Make the images of one call and write them down."""
    tasks = [task for _, task in call]
    errors = produce_several(
        tasks[0].maker,
        [task.request for task in tasks],
        [task.output.absolute() for task in tasks],
    )
    found = []
    for (place, task), error in zip(call, errors, strict=True):
        path = None if error else str(task.output)
        text = None if error is None else str(error)
        candidate = dataclasses.replace(task.wanted, path=path, error=text)
        journal.add_image(task.key, candidate)
        found.append((place, candidate))
    return found
