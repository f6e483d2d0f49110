"""Batches from examples through Grain: shuffled, sharded, resumable, in worker processes or not.

loader = train_loader(sources, encoder=..., buckets=..., config=config, seed=0)
batch = next(loader)
loader.get_state()  # JSON; set_state() goes on at the exact next batch
"""

import dataclasses
import functools
import gc
import hashlib
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import grain
import jax
import numpy as np
from absl import flags

from jaxqa.data import worker_life
from jaxqa.data.batching import BatchBuilder, Buckets, OnBadImage, PromptBatch
from jaxqa.data.encoding import PromptEncoder
from jaxqa.data.schedule import (
    AlternatingSchedule,
    EvaluationSchedule,
    MixedSchedule,
    PlannedBatch,
    Schedule,
    TrainingSchedule,
)
from jaxqa.data.source import Source, check_ids
from jaxqa.errors import UserError
from jaxqa.sharding import WHOLE, RowShare
from jaxqa.typing import Int

Mixing = Literal["rows", "batches"]

_READY_BATCHES = 2  # built ahead, per worker


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How batches are made.

    Attributes:
        batch_size: rows of a batch over all processes.
        num_workers: worker processes of this process; 0 builds batches in a thread.
        on_bad_image: "raise" a UserError, "mask" the row and go on, or "mask_late": raise for what
            the headers show before the start, mask what only decoding finds.
        cache_mb: megabytes of prepared rows that each process or worker keeps in memory, so that
            small data sets are decoded once.
        mixing: how training batches take several sources: "rows" puts rows of all of them into
            each batch, "batches" makes each batch of one source.
    """

    batch_size: int = 32
    num_workers: int = 0
    on_bad_image: OnBadImage = "raise"
    cache_mb: int = 0
    mixing: Mixing = "rows"

    def __post_init__(self):
        for name, least in (("batch_size", 1), ("num_workers", 0), ("cache_mb", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}")


class Loader(Iterator[PromptBatch]):
    """Iterator of batches whose position can be saved and restored.

    Batch number n is a pure function of the examples, the seed and n, so the position is one
    number, whatever the number of workers and processes. Workers start at the first `next`.

    Attributes:
        waited: seconds for which `take` has kept an idle device waiting.
        unreadable: why the image of an example could not be read, of those that this process has
            met; by the example's place among those of all sources, since two may share ids.
    """

    def __init__(
        self,
        schedule: Schedule,
        build: Callable[[PlannedBatch], PromptBatch],
        *,
        local: Int[np.ndarray, " b"],
        num_workers: int,
        fingerprint: str,
        most_unreadable: int,
    ):
        """Use `train_loader` or `evaluation_loader`."""
        self._schedule = schedule
        self._build = build
        self._local = local
        self._num_workers = num_workers
        self._fingerprint = fingerprint
        self._next = 0
        self.waited = 0.0
        self.unreadable: dict[int, str] = {}
        self._most_unreadable = most_unreadable
        self._running = _Running()
        weakref.finalize(self, self._running.close)

    def __len__(self) -> int:
        """Number of batches from the first; very large when training."""
        return len(self._schedule)

    def __next__(self) -> PromptBatch:
        """The next batch; StopIteration at the end of an evaluation's pass.

        Raises:
            UserError: an image cannot be read and `on_bad_image` is "raise"; or, in training, more
                than half of all images cannot.
        """
        if self._next >= len(self):
            self.close()
            raise StopIteration
        try:
            batch = self._running.next(self._start)
            self._remember_errors(batch)
        except UserError:
            self.close()
            raise
        self._next += 1
        return batch

    def _remember_errors(self, batch: PromptBatch) -> None:
        if not any(batch.errors):
            return
        rows = self._schedule[self._next].rows[self._local].tolist()
        for row, error in zip(rows, batch.errors, strict=True):
            if error is not None:
                self.unreadable[row] = error
        if len(self.unreadable) > self._most_unreadable:
            raise UserError(
                f"{len(self.unreadable)} images cannot be read, more than half of all; the last: "
                f"{next(reversed(self.unreadable.values()))}"
            )

    def take(self, work: Any) -> PromptBatch:
        """The next batch; remembers in `waited` how long the device was kept waiting for it.

        Args:
            work: arrays that the device computes meanwhile. Where they are not ready when the
                batch is, nobody has waited. The first batch, for which workers start, counts not.
        """
        begun, warm = time.monotonic(), self._running.is_open
        batch = next(self)
        if warm and all(leaf.is_ready() for leaf in jax.tree.leaves(work)):
            self.waited += time.monotonic() - begun
        return batch

    def get_state(self) -> dict[str, Any]:
        """JSON record of the position after the last batch."""
        return {"next_batch": self._next, "fingerprint": self._fingerprint}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on after a position recorded by `get_state`.

        Raises:
            UserError: it was recorded with other examples, labels, buckets, batch size or seed.
        """
        if state["fingerprint"] != self._fingerprint:
            raise UserError(
                "the checkpoint's data position belongs to other data (fingerprint "
                f"{state['fingerprint']}, expected {self._fingerprint}): examples, buckets, batch "
                "size or seed have changed; restore them or use another work directory"
            )
        self.close()
        self._next = int(state["next_batch"])

    def reset(self) -> None:
        """Go back to the first batch."""
        self.close()
        self._next = 0

    def close(self) -> None:
        """Stop the worker processes; `next` would start them again."""
        self._running.close()

    def _start(self) -> grain.DatasetIterator:
        rest = _From(schedule=self._schedule, start=self._next)
        dataset = grain.MapDataset.source(rest).map(self._build)
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_READY_BATCHES)
        batches = dataset.to_iter_dataset(options)
        if self._num_workers:
            if not flags.FLAGS.is_parsed():  # Grain reads its own, whoever parses the command line
                flags.FLAGS.mark_as_parsed()
            workers = grain.MultiprocessingOptions(
                num_workers=self._num_workers, per_worker_buffer_size=_READY_BATCHES
            )
            batches = batches.mp_prefetch(workers, worker_init_fn=worker_life.tie_to_parent)
        return iter(batches)


def train_loader(
    sources: Sequence[Source],
    *,
    encoder: PromptEncoder,
    buckets: Buckets,
    config: LoaderConfig,
    seed: int,
    supervised: bool = False,
    share: RowShare = WHOLE,
) -> Loader:
    """Endless batches, shuffled anew in every epoch; `SftBatch`es if `supervised`.

    Reads every image's header, so that what cannot be trained on is found before the start. With
    one source an epoch has `len(examples) // batch_size` batches and the few examples left over
    differ by epoch; several are mixed by their weights, see `schedule`.

    Raises:
        UserError: see `BatchBuilder.measure`; or fewer examples than `batch_size`, or two of one
            source with one id.
    """
    builder = _builder(sources, encoder, buckets, config, supervised=supervised)
    measured = builder.measure()
    schedule = _training_schedule(sources, measured[0], config=config, seed=seed)
    order = (seed, config.mixing, [(source.name, source.weight) for source in sources])
    half = len(builder.examples) // 2
    return _loader(builder, schedule, measured, half, config=config, share=share, order=order)


def evaluation_loader(
    sources: Sequence[Source],
    *,
    encoder: PromptEncoder,
    buckets: Buckets,
    config: LoaderConfig,
    supervised: bool = False,
    share: RowShare = WHOLE,
) -> Loader:
    """One pass over all examples, bucket by bucket and in order inside a bucket.

    Each bucket's last batch is padded with rows that are not valid.

    Raises:
        UserError: see `BatchBuilder.measure`; or no examples, or two of one source with one id.
    """
    builder = _builder(sources, encoder, buckets, config, supervised=supervised)
    measured = builder.measure()
    schedule = EvaluationSchedule(measured[0], batch_size=config.batch_size)
    all_of_them = len(builder.examples)
    return _loader(builder, schedule, measured, all_of_them, config=config, share=share, order=None)


def _builder(
    sources: Sequence[Source],
    encoder: PromptEncoder,
    buckets: Buckets,
    config: LoaderConfig,
    *,
    supervised: bool,
) -> BatchBuilder:
    check_ids(sources)
    return BatchBuilder(
        sources,
        encoder=encoder,
        buckets=buckets,
        supervised=supervised,
        on_bad_image=config.on_bad_image,
        cache_bytes=config.cache_mb * 2**20,
    )


def _training_schedule(
    sources: Sequence[Source], buckets: np.ndarray, *, config: LoaderConfig, seed: int
) -> Schedule:
    if len(sources) == 1:
        return TrainingSchedule(buckets, batch_size=config.batch_size, seed=seed)
    ends = np.cumsum([len(source.examples) for source in sources])
    kind = MixedSchedule if config.mixing == "rows" else AlternatingSchedule
    return kind(
        np.split(buckets, ends[:-1]),
        weights=[source.weight for source in sources],
        batch_size=config.batch_size,
        seed=seed,
    )


def _loader(
    builder: BatchBuilder,
    schedule: Schedule,
    measured: tuple[np.ndarray, np.ndarray],
    most_unreadable: int,
    *,
    config: LoaderConfig,
    share: RowShare,
    order: Any,
) -> Loader:
    example_ids = np.array([example.example_id for example in builder.examples], np.int64)
    local = share.rows(config.batch_size)
    build = functools.partial(_build, builder, local=local, target_lengths=measured[1])
    digest = hashlib.blake2b(repr((config.batch_size, order)).encode(), digest_size=8)
    for part in (example_ids, *measured):
        digest.update(part.tobytes())
    return Loader(
        schedule,
        build,
        local=local,
        num_workers=config.num_workers,
        fingerprint=digest.hexdigest(),
        most_unreadable=most_unreadable,
    )


def _build(
    builder: BatchBuilder,
    planned: PlannedBatch,
    *,
    local: Int[np.ndarray, "b"],
    target_lengths: np.ndarray,
) -> PromptBatch:
    """This process's rows of a planned batch."""
    longest = int(target_lengths[planned.rows].max())  # over all processes: one shape for all
    return builder.build(
        planned.rows[local],
        valid=planned.valid[local],
        bucket=planned.bucket,
        completion_length=builder.buckets.completion_length(longest) if builder.supervised else 0,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _From:
    """A schedule from batch `start` on, as a Grain data source."""

    schedule: Schedule
    start: int

    def __len__(self) -> int:
        return len(self.schedule) - self.start

    def __getitem__(self, index: int) -> PlannedBatch:
        return self.schedule[self.start + int(index)]


class _Running:
    """Grain's iterator while it runs; apart from the loader, whose finalizer closes it."""

    def __init__(self) -> None:
        self._iterator: grain.DatasetIterator | None = None

    def next(self, start: Callable[[], grain.DatasetIterator]) -> PromptBatch:
        if self._iterator is None:
            self._iterator = start()
        # Out of the workers' shared memory: its files and descriptors must not live as long as
        # whoever keeps the batch.
        return jax.tree.map(_owned, next(self._iterator))

    @property
    def is_open(self) -> bool:
        return self._iterator is not None

    def close(self) -> None:
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None
            # Grain's prefetching thread ends in a cycle that holds its last batch. Left to the end
            # of the interpreter, the batch's shared memory would be called leaked.
            gc.collect()


def _owned(array: np.ndarray) -> np.ndarray:
    return array if type(array) is np.ndarray else np.array(array)
