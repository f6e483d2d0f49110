"""Which examples make up which batch: pure functions of the batch's number.

Every process computes the same global schedule and takes its own rows of each batch, so all
processes work on the same bucket at the same step, and a batch holds the same examples whatever
the number of processes or workers.
"""

import dataclasses
from collections.abc import Iterator

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
        # Raw Philox bits: NumPy keeps bit streams the same across versions, not shuffles.
        bits = np.random.Philox(key=np.array([self._seed, epoch], np.uint64))
        order = np.argsort(bits.random_raw(len(self._buckets)), kind="stable")
        planned = []
        rest = np.zeros(0, np.int64)
        for bucket in np.unique(self._buckets):
            rest = np.concatenate([rest, order[self._buckets[order] == bucket]])
            for rows in _full_batches(rest, self._batch_size):
                valid = np.ones(self._batch_size, bool)
                planned.append(PlannedBatch(bucket=int(bucket), rows=rows, valid=valid))
            rest = rest[len(rest) // self._batch_size * self._batch_size :]
        return [planned[i] for i in np.argsort(bits.random_raw(len(planned)), kind="stable")]


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


Schedule = TrainingSchedule | EvaluationSchedule


def _full_batches(rows: np.ndarray, batch_size: int) -> np.ndarray:
    full = len(rows) // batch_size * batch_size
    return rows[:full].reshape(-1, batch_size)


def _chunks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _padded(bucket: int, rows: np.ndarray, batch_size: int) -> PlannedBatch:
    missing = batch_size - len(rows)
    filled = np.concatenate([rows, np.repeat(rows[:1], missing)])
    return PlannedBatch(bucket=bucket, rows=filled, valid=np.arange(batch_size) < len(rows))
