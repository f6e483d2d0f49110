"""Checkpoints on a disk that fills: one clear error, nothing half-written, the last one kept."""

import shutil

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
import pytest

from jaxqa import sharding
from jaxqa.errors import UserError
from jaxqa.train.checkpoint import Checkpoints
from jaxqa.train.state import create_state


@pytest.fixture
def state():
    mesh = sharding.make_mesh(sharding.MeshConfig())
    params = jax.device_put({"kernel": jnp.ones((300, 4))}, sharding.replicated(mesh))
    return create_state(params, optax.adam(1e-3))


@pytest.fixture
def checkpoints(tmp_path, state):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, {"position": 1})
    checkpoints.wait()
    yield checkpoints
    checkpoints.close()


def names(checkpoints):
    return sorted(path.name for path in checkpoints.directory.iterdir())


def test_no_save_begins_without_room_for_it(checkpoints, state, monkeypatch):
    usage = shutil.disk_usage(checkpoints.directory)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3 * 4800))
    with pytest.raises(UserError, match="1.44e-05 GB are free; make room"):  # moments, step, count
        checkpoints.save(2, state, {"position": 2})
    assert names(checkpoints) == ["1"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3 * 4800 + 8))
    checkpoints.save(2, state, {"position": 2})
    checkpoints.wait()
    assert checkpoints.restore(2, state)[1] == {"position": 2}


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        ValueError("RESOURCE_EXHAUSTED: Error writing \"params\" [os_error_code='28']"),
    ],
)
def test_a_save_that_fails_is_explained_and_cleared_away(checkpoints, state, monkeypatch, error):
    def save(self, step, args):
        half = checkpoints.directory / f"{step}.orbax-checkpoint-tmp"
        half.mkdir()
        (half / "half").write_bytes(b"written")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", save)
        message = "No space left on device; make room, then run the same command again"
        with pytest.raises(UserError, match=message):
            checkpoints.save(2, state, {"position": 2})
    assert names(checkpoints) == ["1"]
    assert checkpoints.restore(1, state)[1] == {"position": 1}


def test_other_errors_stay_what_they_are(checkpoints, state, monkeypatch):
    def save(self, step, args):
        raise ValueError("a bug")

    monkeypatch.setattr(ocp.CheckpointManager, "save", save)
    with pytest.raises(ValueError, match="a bug"):
        checkpoints.save(2, state, {"position": 2})
