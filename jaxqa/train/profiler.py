"""A trace of a few training steps, for TensorBoard's profiler or Perfetto."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax


@dataclass(kw_only=True)
class Profiler:
    """Traces the steps `first` to `last`, counted from 1, of the stage that it is given to.

    Attributes:
      folder: where the trace goes; every process writes a file of its own.
      first, last: steps.
    """

    folder: Path
    first: int
    last: int
    _runs: bool = field(default=False, init=False)

    def begin(self, step: int) -> None:
        """Begin the trace, if step `step` (which is about to begin) is the first one in it."""
        if not self._runs and self.first <= step <= self.last:
            jax.profiler.start_trace(str(self.folder))
            self._runs = True

    def end(self, step: int, work: Any) -> None:
        """End the trace, if `step` is the last one in it, when its `work` (arrays) is done."""
        if self._runs and step >= self.last:
            jax.block_until_ready(work)
            self.close()

    def close(self) -> None:
        """End a trace that has begun."""
        if self._runs:
            self._runs = False
            jax.profiler.stop_trace()
