"""The launch scripts: their syntax, what they would run, and what stand-ins for the tools see."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import jaxqa
from jaxqa.cli.errors import USER_ERROR_STATUS
from jaxqa.cli.train import DIVERGED_STATUS, STOPPED_STATUSES

FOLDER = Path(jaxqa.__file__).parents[1] / "launchers" / "clusters"
SCRIPTS = sorted([*FOLDER.glob("*.sh"), *FOLDER.glob("*.sbatch")])
WAITS = 'sleep 50 > /dev/null 2>&1 & trap "kill $!; sleep 0.2; echo saved; exit 0" TERM'
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
    assert len(SCRIPTS) == 5
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


def test_ssh_starts_every_host_with_its_own_number(tmp_path, hosts):
    """The stand-in for ssh runs what it is given in a shell, as the host's would."""
    (tmp_path / "checkout" / ".venv" / "bin").mkdir(parents=True)
    tool(tmp_path / "checkout" / ".venv" / "bin", "python", 'printf \'%s\\n\' "$PWD" "$@"')
    tool(tmp_path, "ssh", 'host=${@: -2:1}; bash -c "${@: -1}" > "$OUT/$host"; [ $host != second ]')
    path = f"{tmp_path}:{os.environ['PATH']}"
    flags = (f"--hosts={hosts}", f"--directory={tmp_path / 'checkout'}", "--restarts=5")
    found = run("ssh_hosts.sh", *flags, "--", *TRAIN, PATH=path, OUT=str(tmp_path))
    assert found.returncode == 1  # the second host's
    for number, host in enumerate(("me@first", "second")):
        assert (tmp_path / host).read_text().splitlines() == [
            str(tmp_path / "checkout"),
            "launchers/train.py",
            "--coordinator=first:8476",
            "--num_processes=2",
            f"--process_id={number}",
            "--restarts=5",
            *TRAIN,
        ]


def test_ssh_passes_a_signal_on_and_waits(tmp_path, hosts):
    tool(tmp_path, "ssh", f"{WAITS}; echo up; wait")
    process = subprocess.Popen(
        [FOLDER / "ssh_hosts.sh", f"--hosts={hosts}", "--", *TRAIN],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    seen = 0
    while seen < 2:
        seen += process.stdout.readline() == "up\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    rest = process.stdout.read()
    process.stdout.close()
    assert process.wait(30) == 0 and rest.count("saved") == 2


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
        found = run("tpu_pod.sh", action, *place)
        assert found.returncode == 0 and found.stdout.startswith("+ gcloud compute tpus")
    found = run("tpu_pod.sh", "create", *place, "--type=v9-8")
    assert found.returncode == 2 and "no runtime is known for v9-8" in found.stderr
    assert run("tpu_pod.sh", "fly", *place).returncode == 2


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
    tool(tmp_path, "srun", f"{WAITS}; sleep 0.3; kill -TERM $PPID; wait")
    tool(tmp_path, "scontrol", 'echo "$@"')
    path = f"{tmp_path}:{os.environ['PATH']}"
    found = run("slurm.sbatch", *TRAIN, PATH=path, SLURM_JOB_ID="7")
    assert (found.returncode, found.stdout) == (0, "saved\nrequeue 7\n"), found.stderr
    tool(tmp_path, "srun", "exit 3")
    assert run("slurm.sbatch", *TRAIN, PATH=path, SLURM_JOB_ID="7").returncode == 3
