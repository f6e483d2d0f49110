"""Flags of several processes, of the compilation cache and of the profiler; nothing is trained."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from free_port import free_port

from jaxqa.cli import compiled, distributed, train
from jaxqa.errors import UserError
from jaxqa.stages import run
from jaxqa.train.stop import Stopped, StopRequest


def read(*arguments, **environment):
    parser = argparse.ArgumentParser()
    distributed.add_flags(parser)
    return distributed.read_flags(parser.parse_args(arguments), environment)


def test_who_the_others_are():
    assert not read().is_on
    assert read("--distributed=auto").detect
    said = read("--coordinator=a:1", "--num_processes=4", "--process_id=3")
    assert (said.coordinator, said.num_processes, said.process_id) == ("a:1", 4, 3)
    assert said.is_on and not said.detect
    assert read("--heartbeat_timeout=7").heartbeat_timeout == 7
    assert read("--distributed=auto", "--initialization_timeout=9").initialization_timeout == 9
    assert read().step_timeout == 3600 and read("--step_timeout=0").step_timeout == 0


def test_the_environment_speaks_where_no_flag_does():
    variables = {"JAXQA_COORDINATOR": "a:1", "JAXQA_NUM_PROCESSES": "4", "JAXQA_PROCESS_ID": "3"}
    assert read(**variables).process_id == 3
    assert read("--process_id=2", **variables).process_id == 2
    assert not read("--distributed=off", **variables).is_on
    assert read(JAXQA_DISTRIBUTED="auto").detect


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--coordinator=a:1",), "without --num_processes, --process_id"),
        (("--coordinator=a", "--num_processes=1", "--process_id=0"), "expected HOST:PORT"),
        (("--coordinator=a:1", "--num_processes=2", "--process_id=2"), "expected 0 to 1"),
        (("--coordinator=a:1", "--num_processes=x", "--process_id=2"), "--num_processes=x"),
        (("--heartbeat_timeout=0",), "whole number of at least 1"),
        (("--initialization_timeout=9",), "no other process to wait for"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        read(*arguments)


@pytest.mark.parametrize("flag", ["--restarts=0", "--heartbeat_timeout=7", "--step_timeout=60"])
def test_a_run_of_one_process_is_watched_if_asked(monkeypatch, tmp_path, flag):
    watched = []
    monkeypatch.setattr(train.supervisor, "supervise", lambda *how: watched.append(how) or 0)
    assert train.train(["--config=nowhere.py", f"--workdir={tmp_path}", flag]) == 0
    ((command, supervision),) = watched
    assert flag in command and supervision.processes is None
    assert supervision.silence == (7.0 if "heartbeat" in flag else 100.0)


@pytest.mark.parametrize(
    ("environment", "taken"),
    [
        ({}, []),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)"}, []),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x3),4"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "OMPI_COMM_WORLD_LOCAL_SIZE": "8"}, None),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, []),
        ({"JAX_LOCAL_DEVICE_IDS": "2,3"}, None),
    ],
)
def test_a_process_takes_all_devices_unless_its_host_has_several(environment, taken):
    assert distributed.device_ids(environment) == taken


JOIN = """
import sys, jax
from jaxqa.cli import distributed
with distributed.joined(distributed.Distributed(**eval(sys.argv[1]))):
    print(jax.process_count(), jax.config.values["jax_cuda_visible_devices"])
"""


@pytest.mark.parametrize("tasks", [1, 8])
@pytest.mark.parametrize("says_it", [False, True])
def test_what_jax_sees_of_a_slurm_node(tasks, says_it):
    """One node of a Slurm step, as JAX detects it."""
    port = str(free_port())
    slurm = {
        **{"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "1"},
        **{"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": str(tasks)},
    }
    said = {"coordinator": f"localhost:{port}", "num_processes": 1, "process_id": 0}
    found = subprocess.run(
        [sys.executable, "-c", JOIN, repr(said if says_it else {"detect": True})],
        env=os.environ | slurm | {"JAX_COORDINATOR_PORT": port},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.stdout == f"1 {'all' if tasks == 1 else '0'}\n", found.stderr


def test_every_process_has_a_name_of_its_own(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "tpu-w-3")
    said = read("--coordinator=a:1", "--num_processes=4", "--process_id=3")
    detected = read("--distributed=auto")
    name = distributed.process_name
    assert name(read(), {"SLURM_PROCID": "2"}) == "this process"
    assert name(said, {"SLURM_PROCID": "2"}) == "process 3"
    assert name(detected, {"SLURM_PROCID": "2"}) == "process 2"
    assert name(detected, {"SLURM_PROCID": "0", "OMPI_COMM_WORLD_RANK": "5"}) == "process 5"
    assert name(detected, {}) == "process on tpu-w-3"


def test_a_dead_process_is_called_by_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setenv("SLURM_PROCID", "2")
    assert train.main(["--config=x.py", f"--workdir={tmp_path}", "--distributed=auto"]) == 4
    assert "process 2 failed with status 1" in capsys.readouterr().err


def test_where_compiled_programs_are_kept():
    def folder(flag, environment=None, shared=None):
        return compiled.cache_folder(flag, environment or {}, shared=shared)

    named = {"JAX_COMPILATION_CACHE_DIR": "/c"}
    assert str(folder(None, {"XDG_CACHE_HOME": "/c"})) == "/c/jaxqa/compiled"
    assert str(folder("/d", named)) == "/d" == str(folder("/d", shared=Path("/run")))
    assert str(folder(None, shared=Path("/run"))) == "/run/compiled"
    assert folder("off") is None and folder(None, named) is None
    assert folder("off", shared=Path("/run")) is None is folder(None, named, Path("/run"))


COMPILES = """
import sys, jax
from pathlib import Path
from jaxqa.cli import compiled

found = []
jax.monitoring.register_event_listener(lambda event, **rest: found.append(event))
compiled.keep_compiled(Path(sys.argv[1]), on_cpu=sys.argv[2] == "on_cpu")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: x * 2)(jax.numpy.ones(3))
print("/jax/compilation_cache/cache_hits" in found)
"""


def test_compiled_programs_are_found_by_the_next_process(tmp_path):
    def hits(name, on_cpu):
        command = [sys.executable, "-c", COMPILES, str(tmp_path / name), on_cpu]
        return subprocess.run(command, text=True, capture_output=True, check=True).stdout.strip()

    assert [hits("kept", "on_cpu") for _ in range(2)] == ["False", "True"]
    assert hits("not kept", "elsewhere") == "False" and not (tmp_path / "not kept").exists()


@pytest.mark.parametrize("flag", ["3", "0:2", "5:3", "a:b"])
def test_profiled_steps(flag, capsys):
    arguments = ["--config=x.py", "--workdir=y", f"--profile={flag}"]
    assert train.main(arguments) == 2
    assert "expected FIRST:LAST" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "status"), [((), 0), (("--stopped_status=75",), 75)])
def test_what_a_stopped_run_ends_with(flags, status, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise Stopped("stopped on request during a test")

    monkeypatch.setattr(run, "run", stop)
    config = f"--config={Path(__file__).parents[2] / 'configs' / 'demo.py'}"
    given = [config, f"--workdir={tmp_path}", "--compilation_cache=off", *flags]
    assert train.main(given) == status


def test_work_that_ends_no_step_for_too_long_is_stuck(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stop = StopRequest()
    for look in (stop.look, lambda: stop.check("work"), lambda: stop.check_own("work")):
        now[0] += 60
        assert train._stuck(stop, 60) is None and train._stuck(stop, 0) is None
        now[0] += 1
        assert "no step ended for 61 s" in str(train._stuck(stop, 60))
        assert train._stuck(stop, 0) is None
        look()
        assert train._stuck(stop, 60) is None
