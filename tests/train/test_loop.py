"""The loop on a small problem: order, resuming bit for bit, stopping, divergence."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxqa import sharding
from jaxqa.errors import UserError
from jaxqa.train import loop
from jaxqa.train.checkpoint import Checkpoints
from jaxqa.train.loop import LoopConfig, TrainingDiverged, train
from jaxqa.train.profiler import Profiler
from jaxqa.train.state import create_state
from jaxqa.train.step import make_update
from jaxqa.train.stop import Stopped, StopRequest

MESH = sharding.make_mesh(sharding.MeshConfig())
OPTIMIZER = optax.adam(0.05)


class Rows:
    """Random rows; the position is one number."""

    def __init__(self, poison_at=None):
        self.position, self.poison_at, self.closed = 0, poison_at, False

    def next(self, params, step):
        assert step == self.position  # the loop and its source agree on where they are
        rng = np.random.default_rng(self.position)
        rows = rng.normal(size=(4, 3)).astype(np.float32)
        if self.position == self.poison_at:
            rows[0, 0] = np.nan
        self.position += 1
        return sharding.shard_rows({"x": rows}, MESH), {"position": float(self.position)}

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]

    def close(self):
        self.closed = True


class Diary:
    """Keeps what it is told, and how much it had been told at each sync."""

    def __init__(self, seen):
        self.seen, self.synced = seen, []

    def record(self, step, metrics):
        self.seen.append((step, metrics))

    def sync(self):
        self.synced.append(len(self.seen))


def objective(params, batch):
    return jnp.square(batch["x"] @ params["kernel"] - 1.0).mean(), ({}, None)


UPDATE = make_update(objective, OPTIMIZER, learning_rate=optax.constant_schedule(0.05))


def fresh_state():
    params = jax.device_put({"kernel": jnp.zeros(3)}, sharding.replicated(MESH))
    return create_state(params, OPTIMIZER)


def run(directory, *, steps=7, save_every=3, source=None, stop=None, seen=None, profiler=None):
    checkpoints = Checkpoints(directory)
    seen = [] if seen is None else seen
    try:
        state, seconds = train(
            LoopConfig(name="toy", steps=steps, save_every=save_every, seed=5),
            fresh_state(),
            lambda state, batch: UPDATE(state, batch)[:2],
            source or Rows(),
            checkpoints=checkpoints,
            diary=Diary(seen),
            stop=stop or StopRequest(),
            profiler=profiler,
        )
    finally:
        checkpoints.close()
    return jax.device_get(state), seconds, seen


def same(left, right):
    return all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    )


def test_every_step_is_reported_once_and_in_order(tmp_path):
    state, seconds, seen = run(tmp_path)
    assert [step for step, _ in seen] == list(range(1, 8)) and int(state.step) == 7
    assert [metrics["position"] for _, metrics in seen] == list(range(1, 8))
    assert {"loss", "grad_norm"} <= seen[0][1].keys() and seconds > 0
    assert Checkpoints(tmp_path).latest_step() == 7


@pytest.mark.parametrize(("first", "last"), [(2, 3), (5, 90)])
def test_a_trace_of_some_steps(tmp_path, first, last):
    folder = tmp_path / "profile"
    run(tmp_path / "run", profiler=Profiler(folder=folder, first=first, last=last))
    [trace] = folder.rglob("*.xplane.pb")
    assert b"PjitFunction(update)" in trace.read_bytes()
    jax.profiler.start_trace(str(tmp_path / "another"))  # none is running
    jax.profiler.stop_trace()


def test_no_trace_of_steps_that_never_come(tmp_path):
    run(tmp_path / "run", profiler=Profiler(folder=tmp_path / "profile", first=8, last=9))
    assert not (tmp_path / "profile").exists()


class StopAt(StopRequest):
    def __init__(self, step):
        super().__init__()
        self.left = step

    @property
    def requested(self):
        self.left -= 1
        return self.left < 0

    @requested.setter
    def requested(self, value):
        pass


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    undisturbed = run(tmp_path / "a")[0]
    seen = []
    with pytest.raises(Stopped, match="stopped on request in stage toy after step 5"):
        run(tmp_path / "b", stop=StopAt(5), seen=seen)
    resumed, _, seen = run(tmp_path / "b", seen=seen)
    assert same(undisturbed, resumed)
    assert [step for step, _ in seen] == list(range(1, 8))


def test_seconds_add_up_over_processes(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: now[0]))

    class Slow(Rows):
        def next(self, params, step):
            now[0] += 10.0
            return super().next(params, step)

    with pytest.raises(Stopped):
        run(tmp_path, source=Slow(), stop=StopAt(5))
    now[0] += 1000.0  # between the processes
    assert run(tmp_path, source=Slow())[1] == pytest.approx(7 * 10.0)


def test_a_finished_stage_does_nothing(tmp_path):
    first, seconds, _ = run(tmp_path)
    again, seconds_again, seen = run(tmp_path, source=Rows(poison_at=0))
    assert same(first, again) and not seen and seconds_again == pytest.approx(seconds, abs=1.0)


def test_divergence_names_step_stage_and_last_good_checkpoint(tmp_path):
    with pytest.raises(TrainingDiverged) as raised:
        run(tmp_path, source=Rows(poison_at=4))
    message = str(raised.value)
    assert "stage toy, step 5: loss is nan" in message and str(tmp_path / "3") in message
    assert Checkpoints(tmp_path).latest_step() == 3  # nothing was saved after the bad step


def test_divergence_before_any_checkpoint(tmp_path):
    with pytest.raises(TrainingDiverged, match="no checkpoint was saved"):
        run(tmp_path, source=Rows(poison_at=0))


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run(tmp_path)
    checkpoints = Checkpoints(tmp_path)
    other = jax.device_put({"kernel": jnp.zeros(5)}, sharding.replicated(MESH))
    with pytest.raises(UserError, match="does not fit this run"):
        checkpoints.restore(7, create_state(other, OPTIMIZER))


def test_a_checkpoint_moves_between_meshes(tmp_path):
    saved = run(tmp_path)[0]
    wide = sharding.make_mesh(sharding.MeshConfig(data=4, fsdp=2))
    params = jax.device_put({"kernel": jnp.zeros(3)}, sharding.replicated(wide))
    state, host = Checkpoints(tmp_path).restore(7, create_state(params, OPTIMIZER))
    assert same(saved, jax.device_get(state)) and host["seed"] == 5
    assert state.params["kernel"].sharding.mesh.size == 8


def test_signals_become_requests():
    import os
    import signal

    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(Stopped, match="stopped on request during a test"):
            stop.check("a test")
    assert signal.getsignal(signal.SIGTERM) is before


def test_state_is_one_pytree():
    state = fresh_state()
    assert int(dataclasses.replace(state, step=state.step + 1).step) == 1
    assert len(jax.tree.leaves(state)) == 5  # step, kernel, count, two moments
