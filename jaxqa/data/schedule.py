"""Which examples make up which batch: pure functions of the batch's number.

Every process computes the same global schedule and takes its own rows of each batch, so all
processes work on the same bucket at the same step, and a batch holds the same examples whatever
the number of processes or workers.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from jaxqa.errors import UserError
from jaxqa.typing import Int

_ENDLESS = 2**40


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedBatch:
    """Rows of one global batch.

    Attributes:
        bucket: number of the bucket that holds all of them.
        rows: int64 [B], numbers of examples.
        valid: bool [B], False at padding, which repeats the first row.
    """

    bucket: int
    rows: np.ndarray
    valid: np.ndarray


class TrainingSchedule:
    """Endless epochs, each shuffled anew; all rows of a batch share a bucket.

    What does not fill a batch of its bucket goes into larger buckets, and what does not fill a
    batch of the largest (fewer than one batch in all) is left out of that epoch.
    """

    def __init__(self, buckets: Int[np.ndarray, " N"], *, batch_size: int, seed: int):
        """Schedule examples with these bucket numbers.

        Args:
            buckets: bucket of each example.
            batch_size: rows of a global batch.
            seed: of the shuffling, in [0, 2**64).

        Raises:
            UserError: there are fewer examples than rows in a batch.
        """
        if len(buckets) < batch_size:
            raise UserError(
                f"the data set has {len(buckets)} examples and a batch has {batch_size} rows; "
                "expected at least one full batch: use more data or a smaller batch_size"
            )
        self._buckets = buckets
        self._batch_size = batch_size
        self._seed = seed
        self._epoch: tuple[int, list[PlannedBatch]] = (-1, [])

    @property
    def batches_per_epoch(self) -> int:
        """Batches before every example may come again."""
        return len(self._buckets) // self._batch_size

    def __len__(self) -> int:
        """Practically endless."""
        return _ENDLESS

    def __getitem__(self, number: int) -> PlannedBatch:
        """Batch `number` of the endless sequence."""
        epoch, place = divmod(number, self.batches_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._plan_epoch(epoch))
        return self._epoch[1][place]

    def _plan_epoch(self, epoch: int) -> list[PlannedBatch]:
        bits = _bits(self._seed, epoch)
        order = _shuffled(len(self._buckets), bits)
        return _in_buckets(order, self._buckets, batch_size=self._batch_size, bits=bits)


class EvaluationSchedule:
    """One pass in the given order, bucket by bucket; each bucket's last batch is padded.

    The shape in which an example is computed depends on the example alone.
    """

    def __init__(self, buckets: Int[np.ndarray, " N"], *, batch_size: int):
        """Schedule examples with these bucket numbers into global batches of `batch_size` rows.

        Raises:
            UserError: there are no examples.
        """
        if not len(buckets):
            raise UserError("the data set has no examples; expected at least one")
        self._batches = [
            _padded(int(bucket), rows, batch_size)
            for bucket in np.unique(buckets)
            for rows in _chunks(np.flatnonzero(buckets == bucket), batch_size)
        ]

    def __len__(self) -> int:
        """Number of batches in the pass."""
        return len(self._batches)

    def __getitem__(self, number: int) -> PlannedBatch:
        """Batch `number` of the pass."""
        return self._batches[number]


class MixedSchedule:
    """Endless batches of rows from several sources, in the proportion of their weights.

    A round is about as many rows as there are examples. Its rows are shared out by the weights, to
    within one row per source over any number of rounds, and the sources take turns as evenly as
    the weights allow. Each source deals its examples in epochs of its own, each shuffled anew, so
    a small source with a large weight comes round more often. A round's rows are then put into
    batches of one bucket each, in their order, so a batch holds the sources of its bucket in about
    that proportion; what does not fill a batch goes into larger buckets, and nothing is left out.
    """

    def __init__(
        self,
        buckets: Sequence[Int[np.ndarray, " _"]],
        *,
        weights: Sequence[float],
        batch_size: int,
        seed: int,
    ):
        """Schedule the examples of several sources; rows number all of them, source by source.

        Args:
            buckets: bucket of each example, by source.
            weights: of the sources, above 0.
            batch_size: rows of a global batch.
            seed: of the shuffling, in [0, 2**64).

        Raises:
            UserError: a source is empty, or there are fewer examples than rows in a batch.
        """
        sizes = np.array([len(own) for own in buckets])
        if not sizes.all() or sizes.sum() < batch_size:
            raise UserError(
                f"the sources have {', '.join(map(str, sizes))} examples and a batch has "
                f"{batch_size} rows; expected some of each and at least one full batch in all"
            )
        self._buckets = np.concatenate(buckets)
        self._offsets = np.cumsum(sizes) - sizes
        self._batch_size = batch_size
        self._seed = seed
        self._dealers = [_Dealer(size, _own_seed(seed, n)) for n, size in enumerate(sizes.tolist())]
        least = -(-(len(sizes) ** 2) // batch_size)
        self._batches = max(int(sizes.sum()) // batch_size, least)
        self._turns = _Turns(weights, size=self._batches * batch_size, seed=seed)
        self._round: tuple[int, list[PlannedBatch]] = (-1, [])

    def __len__(self) -> int:
        """Practically endless."""
        return _ENDLESS

    def __getitem__(self, number: int) -> PlannedBatch:
        """Batch `number` of the endless sequence."""
        turn, place = divmod(number, self._batches)
        if self._round[0] != turn:
            self._round = (turn, self._plan_round(turn))
        return self._round[1][place]

    def _plan_round(self, number: int) -> list[PlannedBatch]:
        sources, draws = self._turns.plan(number)
        rows = np.empty(len(sources), np.int64)
        for source, dealer in enumerate(self._dealers):
            mine = sources == source
            rows[mine] = dealer.deal(draws[mine]) + self._offsets[source]
        bits = _bits(_own_seed(self._seed, len(self._dealers)), number)
        return _in_buckets(rows, self._buckets, batch_size=self._batch_size, bits=bits)


class AlternatingSchedule:
    """Endless batches, each of one source; the weights are shares of the batches."""

    def __init__(
        self,
        buckets: Sequence[Int[np.ndarray, " _"]],
        *,
        weights: Sequence[float],
        batch_size: int,
        seed: int,
    ):
        """Schedule the examples of several sources, as `MixedSchedule` does.

        Raises:
            UserError: a source has fewer examples than a batch has rows.
        """
        self._schedules = [
            TrainingSchedule(own, batch_size=batch_size, seed=_own_seed(seed, number))
            for number, own in enumerate(buckets)
        ]
        sizes = np.array([len(own) for own in buckets])
        self._offsets = np.cumsum(sizes) - sizes
        per_epoch = sum(schedule.batches_per_epoch for schedule in self._schedules)
        self._size = max(per_epoch, len(sizes) ** 2)
        self._turns = _Turns(weights, size=self._size, seed=seed)
        self._round: tuple[int, tuple[np.ndarray, np.ndarray]] = (-1, self._turns.plan(0))

    def __len__(self) -> int:
        """Practically endless."""
        return _ENDLESS

    def __getitem__(self, number: int) -> PlannedBatch:
        """Batch `number` of the endless sequence."""
        turn, place = divmod(number, self._size)
        if self._round[0] != turn:
            self._round = (turn, self._turns.plan(turn))
        sources, draws = self._round[1]
        source = int(sources[place])
        planned = self._schedules[source][int(draws[place])]
        return dataclasses.replace(planned, rows=planned.rows + self._offsets[source])


class _Turns:
    """Which source is next: rounds of `size` turns, shared out by weight and evenly spread."""

    def __init__(self, weights: Sequence[float], *, size: int, seed: int):
        self._shares = np.array(weights, np.float64) / np.sum(weights, dtype=np.float64)
        self._size = size
        self._seed = _own_seed(seed, len(weights) + 1)

    def plan(self, number: int) -> tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]:
        """The source of each turn of round `number`, and how many turns it has had before."""
        first, last = self._turns_before(number), self._turns_before(number + 1)
        bits = _bits(self._seed, number)
        shifts = bits.random_raw(len(first)) / 2.0**64
        sources = np.repeat(np.arange(len(first)), last - first)
        draws = np.concatenate([np.arange(*span) for span in zip(first, last, strict=True)])
        places = (draws - first[sources] + shifts[sources]) / (last - first)[sources]
        order = np.argsort(places, kind="stable")
        return sources[order], draws[order]

    def _turns_before(self, number: int) -> Int[np.ndarray, " _"]:
        """Turns of each source before round `number`; the heaviest takes what is left over."""
        turns = np.floor(number * self._size * self._shares).astype(np.int64)
        turns[np.argmax(self._shares)] += number * self._size - turns.sum()
        return turns


class _Dealer:
    """Deals `size` examples in epochs, each shuffled anew: draw j is a function of j alone."""

    def __init__(self, size: int, seed: int):
        self._size, self._seed = size, seed

    def deal(self, draws: Int[np.ndarray, " _"]) -> Int[np.ndarray, " _"]:
        """The examples of these draws."""
        epochs, places = np.divmod(draws, self._size)
        rows = np.empty(len(draws), np.int64)
        for epoch in np.unique(epochs).tolist():
            now = epochs == epoch
            rows[now] = _shuffled(self._size, _bits(self._seed, epoch))[places[now]]
        return rows


Schedule = TrainingSchedule | MixedSchedule | AlternatingSchedule | EvaluationSchedule


def _own_seed(seed: int, number: int) -> int:
    """Seed of part `number`; part 0 has the whole's."""
    return (seed + number * 0x9E3779B97F4A7C15) % 2**64


def _bits(seed: int, number: int) -> np.random.Philox:
    # Raw Philox bits: NumPy keeps bit streams the same across versions, not shuffles.
    return np.random.Philox(key=np.array([seed, number], np.uint64))


def _shuffled(size: int, bits: np.random.Philox) -> Int[np.ndarray, " _"]:
    return np.argsort(bits.random_raw(size), kind="stable")


def _in_buckets(
    order: np.ndarray, buckets: np.ndarray, *, batch_size: int, bits: np.random.Philox
) -> list[PlannedBatch]:
    """Rows in full batches of one bucket each, the batches shuffled.

    What does not fill a batch of its bucket goes into larger buckets; what does not fill one of
    the largest is left out.
    """
    planned = []
    rest = np.zeros(0, np.int64)
    for bucket in np.unique(buckets):
        rest = np.concatenate([rest, order[buckets[order] == bucket]])
        for rows in _full_batches(rest, batch_size):
            valid = np.ones(batch_size, bool)
            planned.append(PlannedBatch(bucket=int(bucket), rows=rows, valid=valid))
        rest = rest[len(rest) // batch_size * batch_size :]
    return [planned[i] for i in np.argsort(bits.random_raw(len(planned)), kind="stable")]


def _full_batches(rows: np.ndarray, batch_size: int) -> np.ndarray:
    full = len(rows) // batch_size * batch_size
    return rows[:full].reshape(-1, batch_size)


def _chunks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _padded(bucket: int, rows: np.ndarray, batch_size: int) -> PlannedBatch:
    missing = batch_size - len(rows)
    filled = np.concatenate([rows, np.repeat(rows[:1], missing)])
    return PlannedBatch(bucket=bucket, rows=filled, valid=np.arange(batch_size) < len(rows))
