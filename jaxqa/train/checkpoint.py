"""Checkpoints of one stage: everything a killed run needs to go on bit for bit.

One Orbax step holds the train state and a JSON record with the data iterator's position, the run
seed and the seconds spent. Saves are asynchronous and become visible by an atomic rename, so a
kill during a save leaves the one before it as the newest.
"""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxqa.errors import UserError
from jaxqa.train.state import TrainState


class Checkpoints:
    """Save and restore `(TrainState, host record)` under `<directory>/<step>/`."""

    def __init__(self, directory: Path, *, keep: int = 2):
        """Open (and create) `directory`; the newest `keep` steps are kept."""
        self.directory = directory.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def latest_step(self) -> int | None:
        """Newest finished step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, host: dict[str, Any]) -> None:
        """Start saving; `state` may be donated as soon as this returns."""
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state), host=ocp.args.JsonSave(host)
        )
        self._manager.save(step, args=arguments)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """State and host record of `step`, placed as `like` is.

        Raises:
          UserError: the checkpoint's tree or shapes differ from this run's.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), host=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=arguments)
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise UserError(
                f"checkpoint {self.directory / str(step)} does not fit this run: {error}; "
                "delete that folder or use another work directory"
            ) from error
        return restored["state"], restored["host"]

    def wait(self) -> None:
        """Block until every started save is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish pending saves and stop the background threads."""
        self._manager.close()
