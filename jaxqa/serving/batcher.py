"""Requests from many clients into the scorer's fixed blocks.

One thread talks to the device. A block starts when it is full, or when its oldest row has waited
long enough; so a row is computed in the same shape whoever else asks, and its score is the same.
"""

import collections
import dataclasses
import math
import queue
import threading
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from jaxqa.errors import UserError
from jaxqa.scoring.blocks import Asker, Query, Row

_IDLE_SECONDS = 0.5
_RATE_WEIGHT = 0.2
_ENDED = "the device thread has ended"

# What a block can fail with: XLA's errors are RuntimeErrors.
_BLOCK_FAILURES = (RuntimeError, ValueError, MemoryError, UserError)


class Busy(Exception):
    """The queue is full.

    Attributes:
      retry_after: seconds after which there should be room.
    """

    def __init__(self, retry_after: int):
        """Say when to come again."""
        super().__init__(f"the queue is full; try again in {retry_after} s")
        self.retry_after = retry_after


class Closed(Exception):
    """The batcher takes nothing any more: it was closed, or its device thread has ended."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatcherConfig:
    """How requests are put together.

    Attributes:
      workers: threads that decode and prepare images.
      max_queue: images that may wait; more are refused.
      max_wait: seconds that a row waits for others before its block starts without them.
      blocks: blocks on the device at a time.
    """

    workers: int = 4
    max_queue: int = 1024
    max_wait: float = 0.01
    blocks: int = 2

    def __post_init__(self):
        if min(self.workers, self.max_queue, self.blocks) < 1 or not self.max_wait >= 0:
            raise UserError(
                f"workers {self.workers}, max_queue {self.max_queue}, blocks {self.blocks}: "
                f"expected at least 1 each; max_wait {self.max_wait}: expected at least 0"
            )


@dataclasses.dataclass(eq=False)
class _Job:
    asker: Asker[Any]
    query: Query
    future: Future[Any] = dataclasses.field(default_factory=Future)
    row: Row | None = None
    ready: float = 0.0


class Batcher:
    """Answers queries of many threads; `close` it."""

    def __init__(self, config: BatcherConfig = BatcherConfig()):
        """Start the threads."""
        self._config = config
        self._lock = threading.Lock()
        self._pending = 0
        self._rate = 0.0
        self._closing = self._ended = False
        self._starting: list[_Job] = []
        self._arrivals: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(config.workers, thread_name_prefix="prepare")
        self._device = threading.Thread(target=self._run, name="device", daemon=True)
        self._device.start()

    @property
    def pending(self) -> int:
        """Images that wait or are computed."""
        return self._pending

    @property
    def is_alive(self) -> bool:
        """Whether the device thread runs."""
        return self._device.is_alive()

    def submit(self, asker: Asker[Any], queries: Sequence[Query]) -> list[Future[Any]]:
        """Take all of `queries`, or none; results come in the futures, which may be cancelled.

        Raises:
          Busy: there is no room for them.
          Closed: the batcher takes nothing any more.
          UserError: there will never be room for so many.
        """
        limit = self._config.max_queue
        if len(queries) > limit:
            raise UserError(f"{len(queries)} images in a request; expected at most {limit}")
        with self._lock:
            if self._closing or not self.is_alive:
                raise Closed("the server is shutting down")
            if self._pending + len(queries) > limit:
                raise Busy(self._retry_after())
            self._pending += len(queries)
        jobs = [_Job(asker, query) for query in queries]
        for job in jobs:
            job.future.add_done_callback(self._finished)
        for job in jobs:
            prepared = self._pool.submit(self._prepare, job)
            prepared.add_done_callback(lambda done, job=job: _pass_on(done, job))
        return [job.future for job in jobs]

    def close(self) -> None:
        """Finish what was taken, refuse what comes."""
        with self._lock:
            self._closing = True
        self._pool.shutdown(wait=True)
        self._arrivals.put(None)
        self._device.join()

    def _finished(self, future: Future[Any]) -> None:
        with self._lock:
            self._pending -= 1

    def _retry_after(self) -> int:
        return min(60, max(1, math.ceil(self._pending / self._rate))) if self._rate else 1

    def _prepare(self, job: _Job) -> None:
        if job.future.cancelled():
            return
        try:
            job.row = job.asker.prepare(job.query.load(), job.query.prompt)
        except UserError as error:
            _resolve(job, job.asker.failed(str(error)))
            return
        job.ready = time.monotonic()
        with self._lock:
            if not self._ended:
                self._arrivals.put(job)
                return
        _fail(job, RuntimeError(_ENDED))

    def _run(self) -> None:
        waiting: dict[Hashable, list[_Job]] = {}
        running: collections.deque[tuple[list[_Job], Any]] = collections.deque()
        try:
            while self._take(waiting, wait=self._patience(waiting, running)):
                while len(running) < self._config.blocks and (jobs := self._next(waiting)):
                    self._start(jobs, running)
                if running:
                    self._collect(running)
        finally:  # whatever happened, nobody waits for ever
            with self._lock:
                self._ended = True
            left = [job for jobs in waiting.values() for job in jobs]
            left += [job for jobs, _ in running for job in jobs] + self._starting
            while not self._arrivals.empty():
                job = self._arrivals.get()
                left += [] if job is None else [job]
            for job in left:
                _fail(job, RuntimeError(_ENDED))

    def _patience(self, waiting: dict[Hashable, list[_Job]], running: Any) -> float:
        """How long to wait for arrivals: until the oldest row is due."""
        if running:
            return 0.0
        if not waiting:
            return _IDLE_SECONDS
        oldest = min(jobs[0].ready for jobs in waiting.values())
        return max(0.0, oldest + self._config.max_wait - time.monotonic())

    def _take(self, waiting: dict[Hashable, list[_Job]], *, wait: float) -> bool:
        """Sort arrivals by their bucket; False at the end, when nothing waits any more."""
        try:
            job = self._arrivals.get(timeout=wait) if wait else self._arrivals.get_nowait()
            while True:
                if job is None:
                    return self._finish_up(waiting)
                assert job.row is not None
                waiting.setdefault((id(job.asker), job.row.bucket), []).append(job)
                job = self._arrivals.get_nowait()
        except queue.Empty:
            return True

    def _finish_up(self, waiting: dict[Hashable, list[_Job]]) -> bool:
        """Let all that waits be due, and come back to end after it."""
        if not any(waiting.values()) and not self._pending:
            return False
        for jobs in waiting.values():
            for job in jobs:
                job.ready = -math.inf
        self._arrivals.put(None)
        return True

    def _next(self, waiting: dict[Hashable, list[_Job]]) -> list[_Job]:
        """The rows of a block that should start now; none if all can wait."""
        now = time.monotonic()
        for key, jobs in list(waiting.items()):
            jobs[:] = [job for job in jobs if not job.future.cancelled()]
            if not jobs:
                del waiting[key]
        due = [
            (jobs[0].ready, key)
            for key, jobs in waiting.items()
            if len(jobs) >= jobs[0].asker.rows or jobs[0].ready + self._config.max_wait <= now
        ]
        if not due:
            return []
        _, key = min(due, key=lambda entry: entry[0])
        rows = waiting[key][0].asker.rows
        block, waiting[key] = waiting[key][:rows], waiting[key][rows:]
        if not waiting[key]:
            del waiting[key]
        return [job for job in block if job.future.set_running_or_notify_cancel()]

    def _start(self, jobs: list[_Job], running: collections.deque[Any]) -> None:
        self._starting = jobs
        try:
            running.append((jobs, jobs[0].asker.dispatch([job.row for job in jobs])))
        except _BLOCK_FAILURES as error:
            for job in jobs:
                _fail(job, error)

    def _collect(self, running: collections.deque[Any]) -> None:
        jobs, block = running[0]  # it stays there until its rows are answered
        begun = time.monotonic()
        try:
            results = jobs[0].asker.collect(block)
        except _BLOCK_FAILURES as error:
            for job in jobs:
                _fail(job, error)
            running.popleft()
            return
        for job, result in zip(jobs, results, strict=True):
            _resolve(job, result)
        running.popleft()
        speed = len(jobs) / max(time.monotonic() - begun, 1e-6)
        self._rate += _RATE_WEIGHT * (speed - self._rate) if self._rate else speed


def _pass_on(prepared: Future[None], job: _Job) -> None:
    """What went wrong in preparing, other than with the image."""
    error = prepared.exception()
    if error is not None:
        _fail(job, error)


def _resolve(job: _Job, result: Any) -> None:
    if not job.future.cancelled() and not job.future.done():
        job.future.set_result(result)


def _fail(job: _Job, error: BaseException) -> None:
    if not job.future.cancelled() and not job.future.done():
        job.future.set_exception(error)
