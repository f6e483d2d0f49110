"""The training loop: one for every stage. Stages differ by objective and batch source only."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jaxqa import processes
from jaxqa.metrics import states
from jaxqa.train.checkpoint import Checkpoints
from jaxqa.train.profiler import Profiler
from jaxqa.train.state import TrainState
from jaxqa.train.stop import StopRequest

Metrics = dict[str, float]
Update = Callable[[TrainState, Any], tuple[TrainState, Mapping[str, Any]]]
"""One training step, device metrics (arrays or `Mean`s) included."""


@runtime_checkable
class BatchSource(Protocol):
    """Where a stage's batches come from: a loader (SFT), or rollouts of the policy (GRPO)."""

    def next(self, params: Any, step: int) -> tuple[Any, Metrics]:
        """Device batch for training step `step`, and host metrics of making it."""
        ...

    def get_state(self) -> dict[str, Any]:
        """JSON record of the position after the last batch."""
        ...

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on after a position recorded by `get_state`."""
        ...

    def close(self) -> None:
        """Stop worker processes."""
        ...


@runtime_checkable
class Diary(Protocol):
    """Where a stage's metrics go."""

    def record(self, step: int, metrics: Metrics) -> None:
        """Take the metrics of a step (from 1); called once per step, in order."""
        ...

    def sync(self) -> None:
        """Bring everything recorded to the disk; called before a checkpoint that counts it."""
        ...


class TrainingDiverged(Exception):
    """A loss or gradient norm was not finite."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How a stage runs.

    Attributes:
      name: the stage.
      steps: training steps in all.
      save_every: steps between checkpoints; the last step is always saved.
      seed: the run's seed, kept in every checkpoint.
    """

    name: str
    steps: int
    save_every: int
    seed: int


def train(
    config: LoopConfig,
    state: TrainState,
    update: Update,
    source: BatchSource,
    *,
    checkpoints: Checkpoints,
    diary: Diary,
    stop: StopRequest,
    profiler: Profiler | None = None,
) -> tuple[TrainState, float]:
    """Train from the newest checkpoint (or `state`) to `config.steps`.

    A stop is agreed on: all processes save and leave after the same step, at most one later than
    the first of them was asked.

    Order of one step: check for a stop, take a batch, dispatch the update, then fetch and report
    the metrics of the step before it, so that the device never waits for the host's logging.

    Returns:
      The final state and the seconds spent training, over all processes that worked on it.

    Raises:
      TrainingDiverged: non-finite loss or gradient norm; names the last good checkpoint.
      stop.Stopped: a stop was requested; the state has been saved.
    """
    state, seconds = restore_latest(config, state, source, checkpoints)
    start, begun = int(state.step), time.monotonic() - seconds
    pending: tuple[int, Any, Metrics] | None = None
    votes = processes.Votes()

    def settle() -> None:
        nonlocal pending
        if pending is not None:
            step, metrics, host_metrics = pending
            pending = None
            diary.record(step, _fetch(config, step, metrics, host_metrics, checkpoints))

    def save(step: int) -> None:
        settle()  # never save a state whose loss was not finite
        diary.sync()
        host = {
            "source": source.get_state(),
            "seed": config.seed,
            "stage": config.name,
            "seconds": time.monotonic() - begun,
        }
        checkpoints.save(step, state, host)

    for step in range(start, config.steps):
        if votes.cast(stop.look()):
            if step > start:
                save(step)
            checkpoints.wait()
            stop.leave(config.name, step)
        if profiler is not None:
            profiler.begin(step + 1)
        # Only what is meant to travel between host and device does: a transfer that nobody asked
        # for makes the device wait.
        with jax.transfer_guard("disallow"):
            batch, host_metrics = source.next(state.params, step)
            state, metrics = update(state, batch)
        settle()
        pending = (step + 1, metrics, host_metrics)
        if profiler is not None:
            profiler.end(step + 1, state)
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            save(step + 1)
    checkpoints.wait()
    if profiler is not None:
        profiler.close()
    return state, time.monotonic() - begun


def restore_latest(
    config: LoopConfig, state: TrainState, source: BatchSource, checkpoints: Checkpoints
) -> tuple[TrainState, float]:
    """The newest checkpoint's state and seconds spent, the source moved to its position."""
    latest = checkpoints.latest_step()
    if latest is None:
        return state, 0.0
    state, host = checkpoints.restore(latest, state)
    source.set_state(host["source"])
    return state, float(host["seconds"])


def _fetch(
    config: LoopConfig, step: int, metrics: Any, host_metrics: Metrics, checkpoints: Checkpoints
) -> Metrics:
    """Bring a step's metrics to the host and refuse to go on from a non-finite one."""
    with np.errstate(invalid="ignore"):  # a mean over no token is nan
        values = {
            name: float(value.compute() if isinstance(value, states.Mean) else value)
            for name, value in jax.device_get(metrics).items()
        }
    for name in ("loss", "grad_norm"):
        if not np.isfinite(values[name]):
            checkpoints.wait()
            last = checkpoints.latest_step()
            kept = (
                "no checkpoint was saved in this stage"
                if last is None
                else (f"the last good checkpoint is {checkpoints.directory / str(last)}")
            )
            raise TrainingDiverged(
                f"stage {config.name}, step {step}: {name} is {values[name]}; {kept}; "
                "lower the learning rate or look at the batch before going on"
            )
    return values | host_metrics
