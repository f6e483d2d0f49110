"""Runs that are killed, stopped or diverge, through the door and in processes of their own.

A run that was killed wherever it hurts must end like one that was left alone: the same bits in the
checkpoints and in the export, the same lines in every file, and no process left behind.
"""

import contextlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jaxqa.cli import train
from jaxqa.configuration import load_config_file
from jaxqa.stages.config import parse_config
from jaxqa.stages.workdir import open_workdir
from jaxqa.train.json_lines import read_json_lines

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="looks for processes in /proc"
)

HERE = Path(__file__).parent
LAUNCHER = (str(HERE.parents[1] / "launchers" / "train.py"),)
SHORT = ("--config.stages=('sft','grpo')", "--config.sft.evaluate=False")
PATIENCE_SECONDS = 300.0
ORPHAN_SECONDS = 60.0


def interrupt(name: str, event: str, pattern: str, count: int = 1) -> tuple[str, ...]:
    """A launcher that gets the signal at that moment; see `interrupt.py`."""
    return (str(HERE / "interrupt.py"), name, event, pattern, str(count))


class Process:
    """The door in a process, and all processes that it starts: they share its session."""

    def __init__(self, command: list[str], folder: Path, xla_flags: str):
        environment = os.environ | {
            "XLA_FLAGS": xla_flags,
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        self._output = folder / "output.txt"
        self.most_members = 0
        with self._output.open("wb") as output:
            self.popen = subprocess.Popen(
                [sys.executable, *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Exit status, once nothing of the session is left; killed if it takes too long."""
        deadline = time.monotonic() + seconds
        while self.popen.poll() is None and time.monotonic() < deadline:
            self.most_members = max(self.most_members, len(self._members()))
            time.sleep(0.05)
        self.popen.kill()
        status, members = self.popen.wait(), self._rest()
        assert not members, f"orphans {members}:\n{self.output()}"
        return status

    def end(self) -> None:
        """Kill the process, and what does not end with it."""
        self.popen.kill()
        self.popen.wait()
        for member in self._rest():
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)

    def _rest(self) -> list[int]:
        """What lives of the session when the others have had time to end."""
        deadline = time.monotonic() + ORPHAN_SECONDS
        while (members := self._members()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return members

    def _members(self) -> list[int]:
        """Living processes of the session."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, _, session = entry.read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.popen.pid and state not in "ZX":
                    found.append(int(entry.parent.name))
        return found


class Bench:
    """Starts runs that share data and compiled programs, and ends what is left of them."""

    def __init__(self, folder: Path, *, xla_flags: str):
        self.folder, self._xla_flags = folder, xla_flags
        self.data = tiny_run.write_dataset(folder / "data")
        self._processes: list[Process] = []

    def arguments(self, workdir: Path, *overrides: str) -> list[str]:
        config = f"--config={HERE / 'tiny_run.py'}:{self.data}"
        return [config, f"--workdir={workdir}", *overrides]

    def start(self, workdir: Path, *overrides: str, launcher: tuple[str, ...]) -> Process:
        command = [*launcher, *self.arguments(workdir, *overrides)]
        self._processes.append(Process(command, self.folder, self._xla_flags))
        return self._processes[-1]

    def finish(self, workdir: Path, *overrides: str, launcher: tuple[str, ...] = LAUNCHER) -> str:
        """Run to the end; what was printed."""
        process = self.start(workdir, *overrides, launcher=launcher)
        assert process.wait() == 0, process.output()
        return process.output()

    def crash(self, workdir: Path, *overrides: str, at: tuple[str, str]) -> Process:
        """Run to the moment `at`, which must come, and on until the workers are gone too."""
        process = self.start(workdir, *overrides, launcher=interrupt("SIGKILL", *at))
        assert process.wait() == -signal.SIGKILL, process.output()
        return process

    def close(self) -> None:
        for process in self._processes:
            process.end()


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Bench]:
    # Compiling is what takes time; the slow test below has XLA's own level.
    flags = "--xla_backend_optimization_level=0"
    with contextlib.closing(Bench(tmp_path_factory.mktemp("runs"), xla_flags=flags)) as bench:
        yield bench


@pytest.fixture(scope="module")
def undisturbed(bench) -> Path:
    """The run that was left alone."""
    bench.finish(bench.folder / "undisturbed", *SHORT)
    return bench.folder / "undisturbed"


def steps(workdir: Path, stage: str) -> list[int]:
    """Finished checkpoints of a stage."""
    folder = workdir / "checkpoints" / stage
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def checkpoint(workdir: Path, stage: str) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint."""
    path = workdir / "checkpoints" / stage / str(steps(workdir, stage)[-1]) / "state"
    handler = ocp.PyTreeCheckpointer()
    described = handler.metadata(path).item_metadata.tree
    names = ocp.tree.to_flat_dict(described, sep="/")
    arguments = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
    arguments = ocp.tree.from_flat_dict(arguments, target=described, sep="/")
    return ocp.tree.to_flat_dict(handler.restore(path, restore_args=arguments), sep="/")


def lines(workdir: Path, name: str) -> list[dict]:
    return list(read_json_lines(workdir / name))


def curve(workdir: Path, stage: str) -> list[int]:
    """Steps of TensorBoard's loss curve."""
    folder = str(workdir / "tensorboard" / stage)
    events = EventAccumulator(folder, size_guidance={"tensors": 0}).Reload()
    return [event.step for event in events.Tensors("loss")]


def without_times(summary: Path) -> dict:
    def keep(part: dict) -> dict:
        return {k: v for k, v in part.items() if not k.endswith("seconds") and "_per_" not in k}

    values = json.loads(summary.read_text())
    return keep(values) | {"stages": [keep(stage) for stage in values["stages"]]}


def assert_same_run(left: Path, right: Path, *stages: str) -> None:
    for stage in stages:
        first, second = checkpoint(left, stage), checkpoint(right, stage)
        assert first.keys() == second.keys() and len(first) > 50
        for name, array in first.items():
            assert array.tobytes() == second[name].tobytes(), f"{stage}: {name}"
        assert curve(left, stage) == curve(right, stage) == [*range(1, steps(left, stage)[-1] + 1)]
    tests = {str(path.relative_to(w)) for w in (left, right) for path in w.glob("evaluations/*")}
    for name in ("metrics.jsonl", "rollouts/grpo.jsonl", "export/model.safetensors", *tests):
        assert (left / name).read_bytes() == (right / name).read_bytes(), name
    assert without_times(left / "summary.json") == without_times(right / "summary.json")
    names = [
        sorted(path.name for folder in folders for path in (workdir / folder).iterdir())
        for workdir in (left, right)
        for folders in [(".", "export", "evaluations", "rollouts", "report")]
    ]
    assert names[0] == names[1]  # nothing half-made is left


def test_a_run_interrupted_where_it_hurts_ends_in_the_same_bits(bench, undisturbed, tmp_path):
    at = interrupt("SIGTERM", "import", "^jax$")  # before there is anything to save
    last = bench.finish(tmp_path, *SHORT, launcher=at).splitlines()[-1]
    assert last == "stopped on request during setup; run the same command again to go on"

    at = interrupt("SIGTERM", "os.rename", r"/sft/20\.orbax")  # while it trains on
    last = bench.finish(tmp_path, *SHORT, launcher=at).splitlines()[-1]
    stopped = steps(tmp_path, "sft")[-1]
    assert 20 <= stopped <= 40
    assert f"stopped on request in stage sft after step {stopped}; run the same command" in last
    assert [line["step"] for line in lines(tmp_path, "metrics.jsonl")] == [*range(1, stopped + 1)]

    bench.crash(tmp_path, *SHORT, at=("os.rename", r"/summary\.json$"))  # between two stages
    assert steps(tmp_path, "sft")[-1] == 60 and not (tmp_path / "summary.json").exists()

    process = bench.crash(tmp_path, *SHORT, at=("os.rename", r"/grpo/4\.orbax"))  # during a save
    assert process.most_members == 3  # and the loader's worker, the tracker of its shared memory
    assert steps(tmp_path, "grpo") == [2]
    assert list(tmp_path.glob("checkpoints/grpo/4.orbax-checkpoint-tmp*"))
    assert lines(tmp_path, "metrics.jsonl")[-1]["step"] >= 4
    assert lines(tmp_path, "rollouts/grpo.jsonl")[-1]["step"] >= 4

    bench.crash(tmp_path, *SHORT, at=("os.rename", r"/export$"))
    assert list(tmp_path.glob(".export.*")) and not (tmp_path / "export").exists()
    bench.finish(tmp_path, *SHORT)
    assert_same_run(undisturbed, tmp_path, "sft", "grpo")


def test_a_finished_run_is_shown_and_left_alone(bench, undisturbed, capsys):
    def state() -> dict[Path, tuple[int, int]]:
        stats = {path: path.stat() for path in undisturbed.rglob("*")}
        return {path: (stat.st_mtime_ns, stat.st_size) for path, stat in stats.items()}

    before, arguments = state(), bench.arguments(undisturbed, *SHORT)
    assert train.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "sft" in shown and "grpo" in shown and str(undisturbed / "export") in shown
    assert train.main([*arguments, "--config.seed=1"]) == 2
    assert "written by another config; they differ in seed" in capsys.readouterr().err
    config = load_config_file(arguments[0].removeprefix("--config="))
    config.update(stages=("sft", "grpo"), sft={"evaluate": False})
    with open_workdir(undisturbed, parse_config(config)):
        assert train.main(arguments) == 2
    assert "in use by another run; wait for it" in capsys.readouterr().err
    assert state() == before


def test_the_summary_of_a_run(undisturbed):
    summary = json.loads((undisturbed / "summary.json").read_text())
    assert [stage["name"] for stage in summary["stages"]] == ["sft", "grpo"]
    spent = summary["setup_seconds"]
    for stage, number in zip(summary["stages"], (60, 5), strict=True):
        assert stage["steps"] == number and stage["seconds"] > 0
        assert stage["completions_per_second"] > 0
        spent += stage["seconds"] + stage.get("evaluation_seconds", 0.0)
    assert summary["seconds"] == pytest.approx(spent)
    assert summary["stages"][0]["evaluation"] is None
    evaluation = summary["stages"][1]["evaluation"]
    assert {"dataset", "plcc", "srcc", "mae", "n", "n_failed"} <= evaluation.keys()
    assert evaluation["dataset"] == "jaxqa_demo" and evaluation["n"] == 6
    rewards = {line["reward"] for line in lines(undisturbed, "rollouts/grpo.jsonl")}
    assert len(rewards) > 5  # these runs compare updates that rewards made


def test_a_run_that_diverges_says_where_and_what_is_left(bench, tmp_path):
    overrides = ("--config.sft.optimizer.learning_rate=1e30", "--config.sft.save_every=1")
    process = bench.start(tmp_path, *SHORT, *overrides, launcher=LAUNCHER)
    assert process.wait() == 3
    last = process.output().splitlines()[-1]
    good = tmp_path / "checkpoints" / "sft" / str(steps(tmp_path, "sft")[-1])
    assert f"stage sft, step {int(good.name) + 1}: loss is nan" in last, process.output()
    assert f"the last good checkpoint is {good}" in last
    assert len(lines(tmp_path, "metrics.jsonl")) == int(good.name)
    assert not (tmp_path / "summary.json").exists()


@pytest.fixture
def optimised_bench(tmp_path) -> Iterator[Bench]:
    with contextlib.closing(Bench(tmp_path, xla_flags="")) as bench:
        yield bench


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_in_the_same_bits(optimised_bench, tmp_path):
    """All three stages; kills at random file operations and at random times."""
    bench, whole = optimised_bench, tmp_path / "whole"
    printed = bench.finish(whole, launcher=interrupt("SIGKILL", "*", re.escape(str(whole)), 0))
    operations = int(re.findall(r"^(\d+) operations$", printed, re.MULTILINE)[-1])
    begun = time.monotonic()
    bench.finish(tmp_path / "again")  # as long as a run takes when all is compiled
    duration = time.monotonic() - begun
    rng = random.Random(int(os.environ.get("SURVIVAL_SEED", "0")))
    kills, finished, runs = 0, [], (tmp_path / f"run{number}" for number in itertools.count())
    run = next(runs)
    while kills < 12:
        launcher, seconds = LAUNCHER, rng.uniform(0, duration / 2)
        if kills % 2:
            count = rng.randrange(1, operations // 4)
            launcher = interrupt("SIGKILL", "*", re.escape(str(run)), count)
            seconds = PATIENCE_SECONDS
        process = bench.start(run, launcher=launcher)
        status = process.wait(seconds)
        assert status in (0, -signal.SIGKILL), process.output()
        kills += status != 0
        if status == 0:  # it came to its end before the moment
            finished.append(run)
            run = next(runs)
    bench.finish(run)
    for other in (*finished, run):
        assert_same_run(whole, other, "warmup", "sft", "grpo")
