"""Two GRPO stages in a row: the second goes on from the first, and chooses its reference."""

import json

import pytest
import tiny_run
from rich.console import Console

from jaxqa.errors import UserError
from jaxqa.stages import run
from jaxqa.stages.config import parse_config
from jaxqa.train.json_lines import read_json_lines
from jaxqa.train.stop import Stopped, StopRequest

PHASES = ("grpo", "grpo_phase2")


def two_phases(root, *, stages=PHASES, reference="initial", tau=0.001):
    config = tiny_run.get_config(str(root))
    config.data.workers = 0
    config.stages = stages
    config.sft.update(steps=2, evaluate=False)
    rewards = config.grpo_phase2.rewards.copy_and_resolve_references()
    with config.unlocked():
        config.grpo.rewards = rewards
    config.grpo.update(steps=1, save_every=1, evaluate=False)
    config.grpo_phase2.update(steps=3, evaluate=False, reference=reference)
    config.grpo_phase2.filter.tau = tau
    return config


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_run.write_dataset(tmp_path_factory.mktemp("phases") / "data")


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    place = tmp_path_factory.mktemp("whole")
    run.run(parse_config(two_phases(root)), place, Console(quiet=True))
    return place


def metrics(place, stage):
    lines = read_json_lines(place / "metrics.jsonl")
    return [line for line in lines if line["stage"] == stage]


class StopAfter(StopRequest):
    """Requested as soon as a stage has logged a step."""

    def __init__(self, place, stage):
        super().__init__()
        self.place, self.stage = place, stage

    @property
    def requested(self):
        path = self.place / "metrics.jsonl"
        return path.exists() and bool(metrics(self.place, self.stage))

    @requested.setter
    def requested(self, value):
        pass


@pytest.mark.slow
def test_the_second_phase_goes_on_from_the_first_and_refers_to_its_start(whole):
    # Where the policy is the reference the penalty is 0; the first phase then moves it.
    assert metrics(whole, "grpo")[0]["kl"] < 1e-12
    assert metrics(whole, "grpo_phase2")[0]["kl"] > 1e-6


@pytest.mark.slow
def test_what_the_second_phase_logs(whole):
    for line in metrics(whole, "grpo_phase2"):
        assert line["groups_kept"] + line["groups_filtered"] >= 4
        assert 0 < line["gate_fraction"] < 1
        assert line["entropy"] > 0 and line["rollout_entropy"] > 0
        assert line["micro_batches"] == -(-line["groups_kept"] // 2)
        assert line["group_variance_quality"] > 0
    for line in metrics(whole, "grpo"):
        assert line["micro_batches"] == 1 and line["rollout_entropy"] > 0
        assert "gate_fraction" not in line and "groups_kept" not in line


@pytest.mark.slow
def test_a_run_stopped_in_the_second_phase_keeps_its_reference(root, tmp_path):
    config = parse_config(two_phases(root, stages=("sft", *PHASES), reference="sft"))
    left, right = tmp_path / "left", tmp_path / "right"
    run.run(config, left, Console(quiet=True))
    assert metrics(left, "grpo_phase2")[0]["kl"] > 1e-6 > metrics(left, "grpo")[0]["kl"]
    with pytest.raises(Stopped, match="in stage grpo_phase2 after step"):
        run.run(config, right, Console(quiet=True), StopAfter(right, "grpo_phase2"))
    assert len(json.loads((right / "summary.json").read_text())["stages"]) == 2
    run.run(config, right, Console(quiet=True))
    assert metrics(left, "grpo_phase2") == metrics(right, "grpo_phase2")
    exports = [(place / "export" / "model.safetensors").read_bytes() for place in (left, right)]
    assert exports[0] == exports[1]


@pytest.mark.slow
def test_every_group_filtered_leaves_the_policy_as_it_is(root, tmp_path):
    config = two_phases(root, reference="start", tau=100.0)
    run.run(parse_config(config), tmp_path, Console(quiet=True))
    lines = metrics(tmp_path, "grpo_phase2")
    assert [line["all_filtered"] for line in lines] == [1.0] * 3
    assert all(line["loss"] == line["grad_norm"] == line["micro_batches"] == 0 for line in lines)
    # Nothing moved: all that is sampled, without any token trained on, is the first phase's own.
    assert all(line["entropy"] is None and line["rollout_entropy"] > 0 for line in lines)


def test_a_reference_must_be_an_earlier_policy(root):
    for wrong in ("grpo_phase2", "previous", "elsewhere"):
        with pytest.raises(UserError, match="config.grpo_phase2.reference: got .* expected start"):
            parse_config(two_phases(root, reference=wrong))
    config = two_phases(root)
    config.grpo_phase2.gate.source = "policy"
    with pytest.raises(UserError, match="needs micro_batches 1"):
        parse_config(config)
