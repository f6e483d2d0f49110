import os
import signal
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from jaxqa.errors import UserError
from jaxqa.train.json_lines import read_json_lines
from jaxqa.train.metric_log import MetricLog


def metrics(workdir):
    lines = read_json_lines(workdir / "metrics.jsonl")
    return [(line["stage"], line["step"], line.get("loss")) for line in lines]


def rollouts(workdir, stage):
    return [line["step"] for line in read_json_lines(workdir / "rollouts" / f"{stage}.jsonl")]


def curve(workdir, stage, tag="loss"):
    folder = str(workdir / "tensorboard" / stage)
    events = EventAccumulator(folder, size_guidance={"tensors": 0}).Reload()
    return [(event.step, float(make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]


def run_stage(log, stage, steps, offset=0.0):
    for step in steps:
        log.rollouts.append(stage, step, [{"text": "a"}, {"text": "b"}])
        log.append(stage, step, {"loss": step + offset})


def test_resumed_run_writes_the_files_of_an_undisturbed_one(tmp_path):
    with MetricLog(tmp_path / "whole") as log:
        run_stage(log, "sft", range(1, 4))
        run_stage(log, "grpo", range(1, 8))
    with MetricLog(tmp_path / "cut") as log:
        run_stage(log, "sft", range(1, 4))
        run_stage(log, "grpo", range(1, 6), offset=100)
    with MetricLog(tmp_path / "cut", resume_at=("grpo", 0)) as log:
        run_stage(log, "grpo", range(1, 6))
    with MetricLog(tmp_path / "cut", resume_at=("grpo", 3)) as log:
        run_stage(log, "grpo", range(4, 8))
    for name in ["metrics.jsonl", "rollouts/sft.jsonl", "rollouts/grpo.jsonl"]:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for workdir in (tmp_path / "whole", tmp_path / "cut"):
        assert curve(workdir, "grpo") == [(step, float(step)) for step in range(1, 8)]
        assert curve(workdir, "sft") == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_cut_back_forgets_the_stages_that_began_later(tmp_path):
    with MetricLog(tmp_path) as log:
        for stage in ("warmup", "sft", "grpo"):
            run_stage(log, stage, range(1, 4))
        assert log.cut_back("sft", 2) == (1 + 3) + 2 * (1 + 3)
        assert metrics(tmp_path) == [
            *(("warmup", step, step) for step in (1, 2, 3)),
            *(("sft", step, step) for step in (1, 2)),
        ]
        assert rollouts(tmp_path, "warmup") == [1, 1, 2, 2, 3, 3]
        assert rollouts(tmp_path, "sft") == [1, 1, 2, 2]
        assert rollouts(tmp_path, "grpo") == []
        run_stage(log, "sft", [3])
    assert rollouts(tmp_path, "sft") == [1, 1, 2, 2, 3, 3]
    assert curve(tmp_path, "sft") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert not list((tmp_path / "tensorboard" / "grpo").glob("events*"))


def test_cut_back_of_a_stage_without_lines_drops_nothing(tmp_path):
    with MetricLog(tmp_path) as log:
        run_stage(log, "sft", [1, 2])
        assert log.cut_back("grpo", 0) == 0
    assert metrics(tmp_path) == [("sft", 1, 1), ("sft", 2, 2)]


def test_rollouts_of_a_stage_that_had_no_metrics_yet_are_cut(tmp_path):
    with MetricLog(tmp_path) as log:
        log.rollouts.append("grpo", 1, [{"text": "a"}])
    with MetricLog(tmp_path, resume_at=("grpo", 0)):
        assert rollouts(tmp_path, "grpo") == []


@pytest.mark.parametrize("step", [0, 1, 2])
def test_no_step_is_logged_twice(tmp_path, step):
    with MetricLog(tmp_path) as log:
        run_stage(log, "sft", [1, 2])
    with MetricLog(tmp_path) as log, pytest.raises(ValueError, match="call cut_back"):
        log.append("sft", step, {"loss": 0.0})
    assert metrics(tmp_path) == [("sft", 1, 1), ("sft", 2, 2)]


def test_other_metrics_of_the_last_step_may_follow(tmp_path):
    with MetricLog(tmp_path) as log:
        log.append("sft", 1, {"loss": 1.0})
        log.append("sft", 1, {"validation_srcc": 0.5})
        with pytest.raises(ValueError, match="validation_srcc"):
            log.append("sft", 1, {"validation_srcc": 0.6})
    with MetricLog(tmp_path) as log, pytest.raises(ValueError, match="loss"):
        log.append("sft", 1, {"loss": 1.0})
    assert curve(tmp_path, "sft", "validation_srcc") == [(1, 0.5)]


def test_not_finite_values_are_null_and_no_event(tmp_path):
    with MetricLog(tmp_path) as log:
        log.append("sft", 1, {"loss": float("nan"), "note": "first"})
        log.append("sft", 2, {"loss": 1.0})
    with MetricLog(tmp_path, resume_at=("sft", 2)) as log:
        log.append("sft", 3, {"loss": 2.0})
    assert metrics(tmp_path) == [("sft", 1, None), ("sft", 2, 1.0), ("sft", 3, 2.0)]
    assert curve(tmp_path, "sft") == [(2, 1.0), (3, 2.0)]


@pytest.mark.parametrize("name", ["", "../sft", "a/b", ".hidden"])
def test_stage_names_cannot_leave_the_work_directory(tmp_path, name):
    with MetricLog(tmp_path) as log, pytest.raises(ValueError, match="cannot name a file"):
        log.rollouts.append(name, 1, [{}])


def test_work_directory_that_is_a_file_is_a_user_error(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        MetricLog(tmp_path / "run")


_ENDLESS_RUN = """
import itertools, sys
from jaxqa.train.metric_log import MetricLog
log = MetricLog(sys.argv[1])
for step in itertools.count(1):
    log.rollouts.append("grpo", step, [{"text": "x" * 5000}])
    log.append("grpo", step, {"loss": float(step)})
    if step == 50:
        print("running", flush=True)
"""


def test_killed_process_loses_nothing_and_doubles_nothing(tmp_path):
    command = [sys.executable, "-c", _ENDLESS_RUN, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    survived = [step for _, step, _ in metrics(tmp_path)]
    assert survived == list(range(1, len(survived) + 1)) and len(survived) >= 50
    assert len(rollouts(tmp_path, "grpo")) in (len(survived), len(survived) + 1)
    with MetricLog(tmp_path, resume_at=("grpo", 40)) as log:
        run_stage(log, "grpo", [41])
    assert [step for _, step, _ in metrics(tmp_path)] == list(range(1, 42))
    assert [step for step, _ in curve(tmp_path, "grpo")] == list(range(1, 42))
