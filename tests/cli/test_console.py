"""A run whose terminal or pipe goes away goes on; nothing is trained."""

import os
import subprocess
import sys

import pytest

from jaxqa.cli.console import lasting_console

# `work` stands in for a run: once nobody looks any more, it prints far more than a pipe holds.
RUN = """
import pathlib, sys
from jaxqa.cli import supervisor, train

def work(_):
    sys.stdin.read()
    for line in range(5000):
        print("step", line)
        print("warning", line, file=sys.stderr)
    pathlib.Path(sys.argv[1]).write_text("saved")
    return 0

def supervised(_):
    given = supervisor.Supervision(restarts=0, silence=30.0, log=pathlib.Path("/no"), name="it",
                                   processes=None)
    return supervisor.supervise([sys.executable, "-c", CHILD, *sys.argv[1:]], given)

train.train = supervised if sys.argv[2] == "supervised" else work
sys.exit(train.main([]))
"""
SUPERVISED = f"CHILD = {RUN.replace('CHILD', 'None').replace('sys.argv[2]', 'None')!r}\n{RUN}"


@pytest.mark.parametrize("kind", ["alone", "supervised"])
@pytest.mark.parametrize("open_console", [os.openpty, os.pipe])
def test_a_run_outlives_its_console(tmp_path, open_console, kind):
    ours, theirs = open_console()
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISED, str(tmp_path / "file"), kind],
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.close(ours)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "file").read_text() == "saved"


def test_a_console_that_stays_gets_everything(capfd):
    with lasting_console():
        print("a – b")
        print("c", file=sys.stderr)
    print("d")
    assert capfd.readouterr() == ("a – b\nd\n", "c\n")


def test_a_terminal_that_goes_asks_for_a_stop_unless_nohup_says_no():
    code = "import os, signal; from jaxqa.train.stop import StopRequest\n"
    code += "with StopRequest() as stop: os.kill(os.getpid(), signal.SIGHUP)\n"
    code += "print(stop.requested)"
    for prefix, expected in ([], "True\n"), (["nohup"], "False\n"):
        found = subprocess.run(
            [*prefix, sys.executable, "-c", code], capture_output=True, text=True
        )
        assert found.stdout == expected, found.stderr
