"""Many threads' questions in blocks: nothing is swapped, lost or waited for without end."""

import dataclasses
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest
from stand_in import StandInAsker, grey

from jaxqa.errors import UserError
from jaxqa.serving.batcher import Batcher, BatcherConfig, Busy, Closed


@dataclasses.dataclass
class Query:
    level: int
    rows: int = 8
    prompt: str | None = None

    def load(self):
        if self.level < 0:
            raise UserError("no image")
        return [grey(self.level, (self.rows, 8))]


class Gate(StandInAsker):
    """Does not answer before it is told to."""

    def __init__(self, **more):
        super().__init__(**more)
        self.open = threading.Event()

    def collect(self, running):
        self.open.wait(10)
        return super().collect(running)


@pytest.fixture
def batcher():
    made = Batcher(BatcherConfig(workers=3, max_queue=100, max_wait=0.005))
    yield made
    made.close()


def expected(level):
    return 1 + 4 * level / 255


def test_nothing_is_swapped_among_64_clients(batcher):
    askers = [StandInAsker(rows=4), StandInAsker(rows=3)]

    def client(seed):
        random = np.random.default_rng(seed)
        for _ in range(12):
            levels = random.integers(-40, 256, random.integers(1, 6)).tolist()
            queries = [Query(level, rows=8 + level % 3) for level in levels]
            while True:
                try:
                    futures = batcher.submit(askers[seed % 2], queries)
                    break
                except Busy as busy:
                    assert busy.retry_after >= 1
                    time.sleep(0.002)
            for level, future in zip(levels, futures, strict=True):
                score = future.result(20)
                if level < 0:
                    assert score.error == "no image"
                else:
                    assert score.score == expected(level)
        return True

    with ThreadPoolExecutor(64) as clients:
        assert all(clients.map(client, range(64)))
    assert batcher.pending == 0


def test_blocks_fill_under_load():
    asker = Gate(rows=4)
    batcher = Batcher(BatcherConfig(workers=2, blocks=1, max_wait=0.001))
    futures = batcher.submit(asker, [Query(level) for level in range(21)])
    time.sleep(0.3)
    asker.open.set()
    assert [f.result(10).score for f in futures] == [expected(level) for level in range(21)]
    assert len(asker.blocks) <= 7 and asker.blocks.count(4) >= 4
    batcher.close()


def test_a_full_queue_refuses_whole_requests():
    asker = Gate(rows=2)
    batcher = Batcher(BatcherConfig(workers=1, max_queue=5))
    first = batcher.submit(asker, [Query(1)] * 4)
    with pytest.raises(Busy) as caught:
        batcher.submit(asker, [Query(1)] * 2)
    assert caught.value.retry_after >= 1 and batcher.pending == 4
    with pytest.raises(UserError, match="6 images in a request; expected at most 5"):
        batcher.submit(asker, [Query(1)] * 6)
    asker.open.set()
    for future in first:
        future.result(10)
    assert batcher.submit(asker, [Query(1)] * 5)[0].result(10).score == expected(1)
    batcher.close()


def test_what_is_cancelled_is_not_computed():
    asker = Gate(rows=1)
    batcher = Batcher(BatcherConfig(workers=1, blocks=1))
    futures = batcher.submit(asker, [Query(level) for level in range(20)])
    time.sleep(0.2)
    dropped = [future for future in futures[5:] if future.cancel()]
    assert len(dropped) == 15
    asker.open.set()
    assert [f.result(10).score for f in futures[:5]] == [expected(level) for level in range(5)]
    with pytest.raises(CancelledError):
        dropped[0].result(0)
    batcher.close()
    assert len(asker.blocks) == 5 and batcher.pending == 0


@pytest.mark.parametrize("place", ["dispatch", "collect", "prepare"])
def test_a_failing_block_fails_its_rows_only(batcher, place):
    class Failing(StandInAsker):
        def _fail(self, *_):
            raise RuntimeError("out of memory")

    broken = Failing()
    setattr(broken, place, broken._fail)
    futures = batcher.submit(broken, [Query(1), Query(2)])
    for future in futures:
        with pytest.raises(RuntimeError, match="out of memory"):
            future.result(10)
    (good,) = batcher.submit(StandInAsker(), [Query(3)])
    assert good.result(10).score == expected(3)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_device_is_said_and_nobody_waits():
    class Broken(StandInAsker):
        def collect(self, running):
            raise SystemError("the program is wrong")

    batcher = Batcher()
    (future,) = batcher.submit(Broken(), [Query(1)])
    deadline = time.monotonic() + 10
    while batcher.is_alive and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not batcher.is_alive
    with pytest.raises(Closed, match="shutting down"):
        batcher.submit(StandInAsker(), [Query(1)])
    with pytest.raises(RuntimeError, match="has ended"):
        future.result(10)
    batcher.close()


def test_closing_finishes_what_was_taken():
    asker = StandInAsker(rows=64)
    batcher = Batcher(BatcherConfig(max_wait=60.0))
    futures = batcher.submit(asker, [Query(level) for level in range(10)])
    begun = time.monotonic()
    batcher.close()
    assert time.monotonic() - begun < 10
    assert [f.result(0).score for f in futures] == [expected(level) for level in range(10)]
    with pytest.raises(Closed, match="shutting down"):
        batcher.submit(asker, [Query(1)])


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"max_queue": 0}, {"max_wait": -1.0}])
def test_wrong_numbers(wrong):
    with pytest.raises(UserError, match="expected at least"):
        BatcherConfig(**wrong)
