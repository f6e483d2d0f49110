"""A stage ready to train: its state, its step and its batches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxqa.data.loader import Loader
from jaxqa.train.loop import BatchSource, Update
from jaxqa.train.rounds import UNREADABLE
from jaxqa.train.state import TrainState
from jaxqa.typing import Params


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A stage ready to train.

    Attributes:
      state: at step 0.
      update: one training step.
      source: where its batches come from.
    """

    state: TrainState
    update: Update
    source: BatchSource


class LoaderSource:
    """A data loader as a batch source."""

    def __init__(self, loader: Loader, batch_of: Callable[[Any], Any]):
        """Take the loader, and what makes a batch on the mesh of this process's rows."""
        self._loader, self._batch_of = loader, batch_of
        self.get_state, self.set_state = loader.get_state, loader.set_state
        self.close = loader.close

    def next(self, params: Params, step: int) -> tuple[Any, dict[str, float]]:
        """The next batch; the step does not matter, nor what the policy is.

        Its metrics are empty, or say how many images of this process could not be read.
        """
        del step
        host = self._loader.take(params)
        unreadable = sum(error is not None for error in host.errors)
        return self._batch_of(host), {UNREADABLE: float(unreadable)} if unreadable else {}
