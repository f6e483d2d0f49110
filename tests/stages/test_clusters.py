"""Two processes of one run on this machine: one is killed, one hangs, one is told to stop."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_run
from free_port import free_port

from jaxqa.train.json_lines import read_json_lines

HERE = Path(__file__).parent
PATIENCE_SECONDS = 400.0
HEARTBEAT_SECONDS = 12

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc"),
]


class Pair:
    """Both processes of a run that would go on for hours."""

    def __init__(self, folder: Path, *flags: str):
        self.folder, self.work = folder, folder / "run"
        port = free_port()
        environment = os.environ | {
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1"
            " --xla_backend_optimization_level=0",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        }
        self.parents = []
        for number in range(2):
            command = [
                *(sys.executable, str(HERE.parents[1] / "launchers" / "train.py")),
                *(f"--config={HERE / 'tiny_run.py'}:{folder / 'data'}", f"--workdir={self.work}"),
                *(f"--coordinator=localhost:{port}", "--num_processes=2", f"--process_id={number}"),
                *(
                    "--config.stages=('warmup',)",
                    "--config.mesh.data=-1",
                    "--config.data.workers=0",
                ),
                *("--config.warmup.steps=1000000", "--config.warmup.save_every=5"),
                *(f"--heartbeat_timeout={HEARTBEAT_SECONDS}", *flags),
            ]
            with (folder / f"{number}.txt").open("ab") as output:
                self.parents.append(
                    subprocess.Popen(
                        command, stdout=output, stderr=subprocess.STDOUT, env=environment
                    )
                )

    def printed(self, number: int) -> str:
        return (self.folder / f"{number}.txt").read_text(errors="replace")

    def child(self, number: int) -> int:
        """The process that trains."""
        found = [
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/stat")
            if parent_of(path) == self.parents[number].pid
        ]
        assert len(found) == 1, found
        return found[0]

    def newest(self) -> int:
        """Newest finished checkpoint."""
        names = (path.name for path in self.work.glob("checkpoints/warmup/*"))
        return max((int(name) for name in names if name.isdigit()), default=0)

    def wait_for_checkpoint_after(self, step: int) -> int:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.newest() <= step:
            assert time.monotonic() < deadline, self.printed(0) + self.printed(1)
            assert all(p.poll() is None for p in self.parents), self.printed(0) + self.printed(1)
            time.sleep(0.1)
        return self.newest()

    def statuses(self) -> list[int]:
        return [parent.wait(PATIENCE_SECONDS) for parent in self.parents]

    def close(self) -> None:
        for number, parent in enumerate(self.parents):
            if parent.poll() is None:
                with contextlib.suppress(AssertionError, ProcessLookupError):
                    os.kill(self.child(number), signal.SIGKILL)
                parent.kill()
                parent.wait()


def parent_of(stat: Path) -> int:
    with contextlib.suppress(OSError):
        return int(stat.read_text().rpartition(")")[2].split()[1])
    return 0


@pytest.fixture
def start(tmp_path) -> Iterator:
    tiny_run.write_dataset(tmp_path / "data")
    with contextlib.ExitStack() as stack:

        def start(*flags: str) -> Pair:
            return stack.enter_context(contextlib.closing(Pair(tmp_path, *flags)))

        yield start


def test_a_run_survives_a_killed_process_and_stops_as_one(start):
    pair = start("--restarts=1")
    before = pair.wait_for_checkpoint_after(0)
    os.kill(pair.child(1), signal.SIGKILL)
    pair.wait_for_checkpoint_after(before + 20)  # the restarted run goes on
    survivor = re.findall(r"process 1 of 2 died or hung \(seen by process 0\); .*", pair.printed(0))
    assert len(survivor) == 1 and "going on from the last checkpoint" in survivor[0]
    assert "process 1 was killed" in pair.printed(1)
    assert "Traceback" not in pair.printed(0) and "absl::Status" not in pair.printed(0)

    pair.parents[1].send_signal(signal.SIGTERM)  # one host is told, all save and leave
    assert pair.statuses() == [0, 0], pair.printed(0) + pair.printed(1)
    stopped = [re.findall(r"stopped on request in stage warmup after step (\d+)", pair.printed(0))]
    assert stopped == [[str(pair.newest())]]
    steps = [line["step"] for line in read_json_lines(pair.work / "metrics.jsonl")]
    assert steps == [*range(1, pair.newest() + 1)]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, "process 1 was killed"),
        (signal.SIGSTOP, f"process 1 hung: no sign of life for {HEARTBEAT_SECONDS} s"),
    ],
)
def test_a_killed_or_hung_process_ends_the_run_in_bounded_time(start, number, words):
    pair = start()
    pair.wait_for_checkpoint_after(0)
    begun = time.monotonic()
    os.kill(pair.child(1), number)
    assert pair.statuses() == [4, 4], pair.printed(0) + pair.printed(1)
    assert time.monotonic() - begun < 6 * HEARTBEAT_SECONDS
    last = [pair.printed(number).splitlines()[-1] for number in range(2)]
    assert last[0].startswith("error: process 1 of 2 died or hung (seen by process 0)")
    assert last[1].startswith(f"error: {words}")
    assert all("run the same command again" in line for line in last)
    assert (pair.work / "process_0.stderr.txt").stat().st_size > 0
