"""Training of one prepared stage: log, progress, checkpoints, the loop."""

import time
from collections.abc import Callable

import jax

from jaxqa import processes
from jaxqa.data.loader import Loader
from jaxqa.models.qwen2_5_vl.adapters import is_adapter
from jaxqa.stages import progress
from jaxqa.stages.adapters import lora_of
from jaxqa.stages.prepared import Prepared
from jaxqa.stages.setup import Setup
from jaxqa.train import loop
from jaxqa.train.checkpoint import Checkpoints
from jaxqa.train.metric_log import MetricLog, NoMetricLog, RolloutLog
from jaxqa.train.profiler import Profiler
from jaxqa.train.state import TrainState
from jaxqa.train.stop import StopRequest


def train_stage(
    setup: Setup,
    name: str,
    prepare: Callable[[RolloutLog], Prepared],
    *,
    steps: int,
    save_every: int,
    stop: StopRequest,
    loader: Loader | None = None,
) -> tuple[TrainState, float]:
    """The state after stage `name` and the seconds its training took; instant if it is finished.

    Args:
      setup: what the stages share.
      name: the stage.
      prepare: makes it ready; given the log of its rollouts.
      steps: training steps in all.
      save_every: steps between checkpoints.
      stop: looked at between steps.
      loader: where its images come from; what it waited for and could not read is said.

    Raises:
      loop.TrainingDiverged: a loss was not finite.
      stop.Stopped: a stop was requested.
    """
    stored = is_adapter if lora_of(setup.config, name).rank else None
    checkpoints = Checkpoints(setup.work.checkpoints(name), stored=stored)
    with MetricLog(setup.work.root) if processes.is_first() else NoMetricLog() as log:
        prepared = prepare(log.rollouts)
        restored = checkpoints.latest_step() or 0
        if restored < steps:
            log.cut_back(name, restored)
        config = loop.LoopConfig(
            name=name, steps=steps, save_every=save_every, seed=setup.config.seed
        )
        try:
            begun = time.monotonic()
            with progress.show_progress(setup.console, name, steps, restored) as advance:
                trained = loop.train(
                    config,
                    prepared.state,
                    prepared.update,
                    prepared.source,
                    checkpoints=checkpoints,
                    diary=_Diary(name, log, advance, loader),
                    stop=stop,
                    profiler=_profiler(setup, name),
                )
        finally:
            prepared.source.close()
            checkpoints.close()
        if loader is not None:
            progress.advise(setup.console, name, loader.waited, time.monotonic() - begun)
            progress.tell_unreadable(setup.console, name, loader.unreadable)
        return trained


def _profiler(setup: Setup, name: str) -> Profiler | None:
    if setup.profile is None:
        return None
    first, last = setup.profile
    folder = setup.work.root / "profile" / name
    if processes.count() > 1:  # JAX names files after hosts, and a host may have several processes
        folder /= f"process_{jax.process_index()}"
    return Profiler(folder=folder, first=first, last=last)


class _Diary:
    """Metrics to the log and to the screen."""

    def __init__(
        self,
        stage: str,
        log: MetricLog | NoMetricLog,
        advance: progress.Advance,
        loader: Loader | None,
    ):
        self._stage, self._log, self._advance = stage, log, advance
        self._waits = progress.DataWaits(lambda: 0.0 if loader is None else loader.waited)
        self.sync = log.sync

    def record(self, step: int, metrics: loop.Metrics) -> None:
        self._log.append(self._stage, step, metrics)
        self._advance(step, {**metrics, **self._waits.share()})
