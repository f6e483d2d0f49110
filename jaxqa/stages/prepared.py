"""A stage ready to train: its state, its step and its batches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jaxqa import sharding
from jaxqa.data.loader import Loader
from jaxqa.train.loop import BatchSource, Update
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
    """A data loader as a batch source: picks what the step reads and puts it on the mesh."""

    def __init__(
        self,
        loader: Loader,
        fields_of: Callable[[Any], dict[str, Any]],
        batch_type: Callable[..., Any],
        mesh: jax.sharding.Mesh,
    ):
        """Take the loader and which fields of `batch_type` its host batches fill, and how."""
        self._loader, self._fields_of = loader, fields_of
        self._batch_type, self._mesh = batch_type, mesh
        self.get_state, self.set_state = loader.get_state, loader.set_state
        self.close = loader.close

    def next(self, params: Params, step: int) -> tuple[Any, dict[str, float]]:
        """The next batch; the step does not matter, nor what the policy is."""
        del step
        fields = self._fields_of(self._loader.take(params))
        return self._batch_type(**sharding.shard_rows(fields, self._mesh)), {}
