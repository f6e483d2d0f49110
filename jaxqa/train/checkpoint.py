"""Checkpoints of one stage: everything a killed run needs to go on bit for bit.

One Orbax step holds the train state and a JSON record with the data iterator's position, the run
seed and the seconds spent. Saves are asynchronous and become visible by an atomic rename, so a
kill during a save leaves the one before it as the newest.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxqa import tree
from jaxqa.errors import UserError
from jaxqa.files import check_free_space
from jaxqa.train.checksum import checksum
from jaxqa.train.state import TrainState, split_trained
from jaxqa.typing import Params


class Checkpoints:
    """Save and restore `(TrainState, host record)` under `<directory>/<step>/`."""

    def __init__(
        self, directory: Path, *, keep: int = 2, stored: Callable[[str], bool] | None = None
    ):
        """Open (and create) `directory`; the newest `keep` steps are kept.

        Parameters whose "/"-joined path is not `stored` (None: all are) stay out of checkpoints;
        only a checksum says which they were.
        """
        self._stored = stored
        self.directory = directory.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
        )
        handlers = {"state": ocp.StandardCheckpointHandler(), "host": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_handlers=handlers
        )

    def latest_step(self) -> int | None:
        """Newest finished step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, host: dict[str, Any]) -> None:
        """Start saving; `state` may be donated as soon as this returns.

        Raises:
          UserError: the disk is full or cannot be written; so `wait` and `close` may report later.
        """
        params, rest = split_trained(state.params, self._stored)
        if rest:
            state, host = replace(state, params=params), host | {"frozen": checksum(rest)}
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state), host=ocp.args.JsonSave(host)
        )
        with self._explain_disk_errors():
            check_free_space(self.directory, sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
            self._manager.save(step, args=arguments)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """State and host record of `step`, placed as `like` is.

        Raises:
          UserError: the checkpoint's tree or shapes differ from this run's, or parameters that
            it does not hold do.
        """
        params, rest = split_trained(like.params, self._stored)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, replace(like, params=params))
        self._check_fit(step, abstract)
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), host=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step, args=arguments)
        state, host = restored["state"], restored["host"]
        if rest:
            self._check_frozen(step, host, rest)
            state = replace(state, params=tree.join(state.params, rest))
        return state, host

    def _check_frozen(self, step: int, host: Mapping[str, Any], frozen: Params) -> None:
        if host["frozen"] != checksum(frozen):
            raise UserError(
                f"checkpoint {self.directory / str(step)} belongs to adapters of another model "
                "than the one that this stage starts from; restore that model, or delete the "
                "folder"
            )

    def restore_params(self, step: int, like: Params) -> Params:
        """Only the parameters of `step`, placed as the subtree `like` (arrays or their shapes) is.

        Raises:
          UserError: the checkpoint lacks one of them or holds it in another shape.
        """
        abstract = {"params": jax.tree.map(ocp.utils.to_shape_dtype_struct, like)}
        stored = _shapes(self._manager.item_metadata(step)["state"])
        self._refuse_misfits(step, {p: stored.get(p) for p in _shapes(abstract)}, _shapes(abstract))
        arguments = ocp.args.PyTreeRestore(
            item=abstract,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=True,
        )
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            return reader.restore(self.directory / str(step) / "state", args=arguments)["params"]

    def _check_fit(self, step: int, abstract: TrainState) -> None:
        stored = _shapes(self._manager.item_metadata(step)["state"])
        expected = _shapes(ocp.tree.serialize_tree(abstract, keep_empty_nodes=True))
        self._refuse_misfits(step, stored, expected)

    def _refuse_misfits(
        self, step: int, stored: Mapping[str, Any], expected: Mapping[str, Any]
    ) -> None:
        found = {path: shape for path, shape in stored.items() if shape is not None}
        wrong = [
            f"{path} is {found.get(path, 'missing')}, expected {expected.get(path, 'nothing')}"
            for path in sorted(stored.keys() | expected.keys())
            if found.get(path) != expected.get(path)
        ]
        if wrong:
            raise UserError(
                f"checkpoint {self.directory / str(step)} does not fit this run: "
                f"{'; '.join(wrong[:4])}{f' and {len(wrong) - 4} more' if len(wrong) > 4 else ''}; "
                "delete that folder or use another work directory"
            )

    def wait(self) -> None:
        """Block until every started save is on disk."""
        with self._explain_disk_errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish pending saves and stop the background threads."""
        with self._explain_disk_errors():
            self._manager.close()

    @contextlib.contextmanager
    def _explain_disk_errors(self) -> Iterator[None]:
        """Turn what Orbax makes of a failing disk into a UserError, and free what it left."""
        try:
            yield
        except (OSError, ValueError) as error:
            # tensorstore's errors are ValueErrors; this tells those of the disk from others.
            if isinstance(error, ValueError) and "os_error_code" not in str(error):
                raise
            for unfinished in self.directory.glob("*.orbax-checkpoint-tmp"):
                shutil.rmtree(unfinished, ignore_errors=True)
            raise UserError(
                f"cannot write a checkpoint to {self.directory}: {_reason(error)}; make room, then "
                "run the same command again: it goes on after the last checkpoint"
            ) from error


def _reason(error: OSError | ValueError) -> str:
    """The operating system's words for it."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else str(error)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shape of every array by its path; Orbax's own description of a tree, or ours."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
        if hasattr(leaf, "shape")
    }
