"""The parent of a training process, with stand-ins for the child: shell and Python one-liners."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxqa.cli.supervisor import LOST_STATUS, Supervision, supervise

PEER_GONE = "F1129 client.h:80] JAX distributed service detected fatal errors: task:3 is unhealthy"


def child(code: str) -> list[str]:
    return [sys.executable, "-c", f"import os, signal, sys, time\n{code}"]


@pytest.fixture
def supervision(tmp_path):
    values = {"restarts": 0, "silence": 30.0, "log": tmp_path / "log.txt", "name": "process 1"}
    return lambda **changes: Supervision(processes=4, **(values | changes))


@pytest.mark.parametrize("status", [0, 2, 3, 75])
def test_what_a_restart_would_not_change_is_passed_through(supervision, capfd, status):
    code = f"print('words', file=sys.stderr); sys.exit({status})"
    assert supervise(child(code), supervision(restarts=3)) == status
    assert capfd.readouterr().err == "words\n"


def test_a_lost_peer_is_one_line(supervision, capfd):
    code = f"print('seen', file=sys.stderr); print({PEER_GONE!r}, file=sys.stderr)\n"
    code += "print('    @ 0x7f', file=sys.stderr); sys.stderr.flush(); os.abort()"
    assert supervise(child(code), supervision()) == LOST_STATUS
    seen, line = capfd.readouterr().err.splitlines()
    assert seen == "seen"
    assert line.startswith("error: process 3 of 4 died or hung (seen by process 1); ")
    assert "--restarts=N" in line and "log.txt" in line


def test_an_own_death_shows_its_traceback(supervision, capfd, tmp_path):
    assert supervise(child("raise RuntimeError('a bug')"), supervision()) == LOST_STATUS
    shown = capfd.readouterr().err
    assert "RuntimeError: a bug" in shown
    assert "error: process 1 failed with status 1" in shown
    assert "a bug" in (tmp_path / "log.txt").read_text()


def test_a_child_is_started_again_until_it_ends_well(supervision, capfd, tmp_path, monkeypatch):
    delays = []
    monkeypatch.setattr(time, "sleep", delays.append)
    marks = tmp_path / "marks"
    code = f"file = open({str(marks)!r}, 'a'); file.write('x'); file.close()\n"
    code += f"os.path.getsize({str(marks)!r}) < 3 and os.kill(os.getpid(), 9)"
    assert supervise(child(code), supervision(restarts=5, silence=10.0)) == 0
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and all("process 1 was killed" in line for line in lines)
    assert "(5 restarts left)" in lines[0] and "(4 restarts left)" in lines[1]
    assert delays == [11.0, 12.0]  # its peers must have noticed


def test_a_silent_child_is_ended(supervision, capfd):
    begun = time.monotonic()
    code = "os.kill(os.getpid(), signal.SIGSTOP)"
    assert supervise(child(code), supervision(silence=1.5)) == LOST_STATUS
    assert 1.0 < time.monotonic() - begun < 20
    assert "process 1 hung: no sign of life for 2 s" in capfd.readouterr().err


def test_a_child_that_gets_nowhere_says_where_it_is_and_is_ended(supervision, capfd, tmp_path):
    code = "from jaxqa.cli.supervisor import show_life\nbegun = time.monotonic()\n"
    code += "def stuck(): return 'no step' if time.monotonic() - begun > 1 else None\n"
    code += "show_life(int(sys.argv[-1].split('=')[1]), stuck=stuck)\ntime.sleep(60)"
    begun = time.monotonic()
    assert supervise(child(code), supervision(silence=2.0)) == LOST_STATUS
    assert time.monotonic() - begun < 30
    assert "process 1 hung" in capfd.readouterr().err
    log = (tmp_path / "log.txt").read_text()
    assert "no step; its threads:" in log and 'File "<string>", line' in log


PARENT = """
import sys
from pathlib import Path
from jaxqa.cli.supervisor import Supervision, supervise
given = Supervision(restarts=3, silence=30.0, log=Path("/nowhere/x"), name="it", processes=None)
sys.exit(supervise([sys.executable, "-c", sys.argv[1]], given))
"""
CHILD = """
import signal, sys, time
from jaxqa.cli.supervisor import show_life
show_life(int(sys.argv[1].partition("=")[2]))
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(0)))
print("up", flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def parent(*before):
    """A parent whose child is up; `before` stands before its command."""
    root = str(Path(sys.modules["jaxqa"].__file__ or "").parents[1])
    process = subprocess.Popen(
        [*before, sys.executable, "-c", PARENT, CHILD],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if before else None,  # nohup says what it does
        text=True,
        env=os.environ | {"PYTHONPATH": root},
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "up\n"
        yield process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_signals_reach_the_child_and_it_outlives_no_parent(number):
    with parent() as process:
        process.send_signal(number)
        assert process.stdout.read() == "saved\n"  # read to the end: the child is gone, too
    assert process.wait(30) == (-9 if number == signal.SIGKILL else 0)


def test_a_run_under_nohup_outlives_its_terminal():
    with parent("nohup") as process:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "saved\n"
    assert process.wait(30) == 0
