"""The launch scripts: their syntax, what they would run, and what stand-ins for the tools see."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import jaxqa
from jaxqa.cli.errors import USER_ERROR_STATUS
from jaxqa.cli.train import DIVERGED_STATUS, STOPPED_STATUSES

FOLDER = Path(jaxqa.__file__).parents[1] / "launchers" / "clusters"
SCRIPTS = sorted([*FOLDER.glob("*.sh"), *FOLDER.glob("*.sbatch")])
WAITS = 'sleep 50 > /dev/null 2>&1 & trap "kill $!; sleep 0.2; echo saved; exit 0" TERM'
# A shell in the home directory of a worker.
GCLOUD = 'cd "$HOME"; command=${@: -1}; bash -c "${command#--command=}"'
TRAIN = ["--config=configs/demo.py", "--workdir=/shared/a run", "--config.stages=('sft',)"]


def run(script, *arguments, **environment):
    return subprocess.run(
        [str(FOLDER / script), *arguments],
        env=os.environ | environment,
        text=True,
        capture_output=True,
        timeout=60,
    )


def tool(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


def test_scripts_are_clean():
    assert len(SCRIPTS) == 6
    for script in SCRIPTS:
        subprocess.run(["bash", "-n", script], check=True)
    found = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip("needs shellcheck")
    names = [str(script.relative_to(FOLDER.parents[1])) for script in SCRIPTS]
    checked = subprocess.run(
        [found, "-x", *names], cwd=FOLDER.parents[1], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


@pytest.fixture
def hosts(tmp_path):
    path = tmp_path / "hosts.txt"
    path.write_text("# two of them\nme@first\n\nsecond\n")
    return path


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """What hosts have, its Python a stand-in, and an `ssh` that is a shell on this machine."""
    folder = tmp_path / "checkout"
    (folder / ".venv" / "bin").mkdir(parents=True)
    shutil.copytree(FOLDER, folder / "launchers" / "clusters")
    tool(tmp_path, "ssh", 'bash -c "${@: -1}"')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return folder


def python(checkout: Path, body: str) -> None:
    tool(checkout / ".venv" / "bin", "python", body)


def arguments(tmp_path: Path) -> list[str]:
    return [f"--workdir={tmp_path / 'a run'}", "--config.stages=('sft',)"]


def test_ssh_starts_every_host_with_its_own_number(tmp_path, hosts, checkout):
    python(checkout, 'printf \'%s\\n\' "$PWD" "$@"; [[ $* != *process_id=1* ]]')
    flags = (f"--hosts={hosts}", f"--directory={checkout}", "--restarts=5")
    found = run("ssh_hosts.sh", *flags, "--", *arguments(tmp_path))
    assert found.returncode == 1  # the second host's
    for number in range(2):
        output = (tmp_path / "a run" / f"process_{number}.output.txt").read_text()
        assert output.splitlines() == [
            str(checkout),
            "launchers/train.py",
            "--coordinator=first:8476",
            "--num_processes=2",
            f"--process_id={number}",
            "--restarts=5",
            *arguments(tmp_path),
        ]
        assert set(output.splitlines()) <= set(found.stdout.splitlines())  # hosts take turns


@pytest.fixture
def start():
    with contextlib.ExitStack() as stack:

        def start(*command: str | Path) -> subprocess.Popen:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, start_new_session=True
            )
            stack.callback(end, process)
            return process

        yield start


def end(process: subprocess.Popen) -> None:
    """Kill a script, its ssh, and the far ends of these."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def wait_for(process: subprocess.Popen, line: str, times: int) -> None:
    assert process.stdout is not None
    while times:
        read = process.stdout.readline()
        assert read, f"ended before {line!r}"
        times -= read == f"{line}\n"


def test_ssh_passes_a_signal_on_and_waits(tmp_path, hosts, checkout, start):
    python(checkout, f"{WAITS}; echo up; wait")
    flags = (f"--hosts={hosts}", f"--directory={checkout}")
    process = start(FOLDER / "ssh_hosts.sh", *flags, "--", *arguments(tmp_path))
    wait_for(process, "up", 2)
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and rest.count("saved") == 2


def test_a_run_outlives_its_connections(tmp_path, hosts, checkout, start):
    python(checkout, f"{WAITS}; echo up; wait")
    flags = (f"--hosts={hosts}", f"--directory={checkout}")
    first = start(FOLDER / "ssh_hosts.sh", *flags, "--", *arguments(tmp_path))
    wait_for(first, "up", 2)
    end(first)
    second = start(FOLDER / "ssh_hosts.sh", *flags, "--", *arguments(tmp_path))
    wait_for(second, "up", 2)
    stopped = run("ssh_hosts.sh", *flags, "--stop", "--", *arguments(tmp_path))
    assert stopped.returncode == 0, stopped.stderr
    for number in range(2):
        output = (tmp_path / "a run" / f"process_{number}.output.txt").read_text()
        assert output == "up\nsaved\n"  # once: the second command has started nothing
    assert second.communicate(timeout=60)[0].count("saved") == 2 and second.returncode == 0
    assert (
        "process_0 does not run"
        in run("ssh_hosts.sh", *flags, "--stop", "--", *arguments(tmp_path)).stderr
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--hosts=FILE is missing"),
        (("--hosts=/nowhere",), "cannot read /nowhere"),
        (("--host=x",), "unknown argument --host=x"),
    ],
)
def test_ssh_says_what_is_missing(arguments, message):
    found = run("ssh_hosts.sh", *arguments, "--", *TRAIN)
    assert found.returncode == 2 and message in found.stderr


def test_tpu_pod_prints_what_it_would_do():
    place = ("--name=qa", "--zone=us-west4-a", "--dry_run")
    found = run("tpu_pod.sh", "create", *place, "--type=v5litepod-64", "--spot")
    assert found.returncode == 0, found.stderr
    for part in ("queued-resources create qa", "v2-alpha-tpuv5-lite", "--spot", "v5litepod-64"):
        assert part in found.stdout
    found = run("tpu_pod.sh", "train", *place, "--", *TRAIN)
    assert "--worker=all" in found.stdout and "--distributed=auto" in found.stdout
    for action in ("wait", "stop", "delete"):
        found = run("tpu_pod.sh", action, *place, "--", *TRAIN)
        assert found.returncode == 0 and found.stdout.startswith("+ gcloud compute tpus")
    found = run("tpu_pod.sh", "create", *place, "--type=v9-8")
    assert found.returncode == 2 and "no runtime is known for v9-8" in found.stderr
    assert run("tpu_pod.sh", "fly", *place).returncode == 2


def git(folder: Path, *arguments: str) -> None:
    author = ("-c", "user.name=A", "-c", "user.email=a@b.c")
    subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True)


def test_tpu_setup_updates_what_is_there_and_brings_its_own_python(tmp_path):
    source, home = tmp_path / "source", tmp_path / "home"
    source.mkdir()
    home.mkdir()
    git(source, "init", "-b", "main")
    tool(tmp_path, "gcloud", GCLOUD)
    tool(tmp_path, "python3", 'echo "$@" >> "$HOME/python3.txt"')
    place = ("--name=qa", "--zone=us-west4-a", f"--source={source}")
    path = f"{tmp_path}:{os.environ['PATH']}"
    for version in ("old", "new"):
        (source / "file").write_text(version)
        git(source, "add", "file")
        git(source, "commit", "-m", version)
        found = run("tpu_pod.sh", "setup", *place, PATH=path, HOME=str(home))
        assert found.returncode == 0, found.stderr
        assert (home / "jaxqa" / "file").read_text() == version
    asked = (home / "python3.txt").read_text().splitlines()[-3:]
    assert asked == [
        "-m pip install -q --user uv",
        "-m uv venv -q --clear --python 3.11 .venv",
        "-m uv pip install -q -c constraints.txt -e .[tpu]",
    ]


def test_a_tpu_run_is_started_and_stopped(tmp_path, checkout, start, monkeypatch):
    (tmp_path / "jaxqa").symlink_to(checkout)
    tool(tmp_path, "gcloud", GCLOUD)
    python(checkout, f"{WAITS}; echo up; wait")
    place = ("--name=qa", "--zone=us-west4-a")
    monkeypatch.setenv("HOME", str(tmp_path))
    train = start(FOLDER / "tpu_pod.sh", "train", *place, "--", *arguments(tmp_path))
    wait_for(train, "up", 1)
    found = run("tpu_pod.sh", "stop", *place, "--", f"--workdir={tmp_path / 'a run'}")
    assert found.returncode == 0, found.stderr
    [output] = (tmp_path / "a run").glob("process_on_*.output.txt")
    assert output.read_text() == "up\nsaved\n"
    assert train.communicate(timeout=60)[0].endswith("saved\n") and train.returncode == 0


def test_the_manifest_is_filled_in():
    values = {
        **{"NAME": "qa", "IMAGE": "image:1", "CLAIM": "disk", "TOPOLOGY": "8x8"},
        **{"HOSTS": "16", "CHIPS_PER_HOST": "4", "ACCELERATOR": "tpu-v5-lite-podslice"},
        "ARGUMENTS": '["--config=configs/tatar.py", "--workdir=/shared/run"]',
    }
    found = run("gke_submit.sh", "--dry_run", **values)
    assert found.returncode == 0, found.stderr
    body = "".join(
        line for line in found.stdout.splitlines(keepends=True) if not line.startswith("#")
    )
    assert "$" not in body and body.count("google.com/tpu: 4") == 2 and "parallelism: 16" in body
    assert 'args: ["--config=configs/tatar.py", "--workdir=/shared/run"]' in body
    manifest = yaml.safe_load(body)
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    # What was told to stop must not look complete; what no restart would mend must fail at once.
    stopped = next(word for word in container["command"] if word.startswith("--stopped_status="))
    assert stopped.removeprefix("--stopped_status=") in STOPPED_STATUSES[1:]
    [rule] = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["containerName"] == container["name"]
    assert rule["onExitCodes"]["values"] == [USER_ERROR_STATUS, DIVERGED_STATUS]
    [policy] = manifest["spec"]["failurePolicy"]["rules"]
    assert policy == {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    topology = manifest["metadata"]["annotations"]["alpha.jobset.sigs.k8s.io/exclusive-topology"]
    assert topology == "cloud.google.com/gke-nodepool"
    found = run("gke_submit.sh", "--dry_run", **(values | {"CLAIM": ""}))
    assert found.returncode == 2 and "$CLAIM is not set" in found.stderr


def test_slurm_runs_one_task_per_node(tmp_path):
    found = run("slurm.sbatch", *TRAIN, JAXQA_DRY_RUN="1", JAXQA_RESTARTS="2")
    assert found.returncode == 0, found.stderr
    for part in ("srun", "launchers/train.py", "--distributed=auto", "--restarts=2"):
        assert part in found.stdout
    # As the real ones: srun kills its task on SIGTERM, scancel signals the task past srun.
    tool(tmp_path, "task", f'{WAITS}; echo $$ > "$0.pid"; kill -TERM "$1"; wait')
    tool(
        tmp_path,
        "srun",
        'task $PPID & task=$!; trap "kill -KILL $task; exit 137" TERM\n'
        'status=0; wait $task || status=$?; exit "$status"',
    )
    tool(tmp_path, "scancel", f'[[ "$*" == "--signal=TERM 7" ]] && kill "$(< {tmp_path}/task.pid)"')
    tool(tmp_path, "scontrol", 'echo "$@"')
    path = f"{tmp_path}:{os.environ['PATH']}"
    found = run("slurm.sbatch", *TRAIN, PATH=path, SLURM_JOB_ID="7")
    assert (found.returncode, found.stdout) == (0, "saved\nrequeue 7\n"), found.stderr
    tool(tmp_path, "srun", "exit 3")
    assert run("slurm.sbatch", *TRAIN, PATH=path, SLURM_JOB_ID="7").returncode == 3
