"""The stage that writes rationales, in runs of their own: killed, gone on with, read by SFT."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_survival import Bench, lines, steps, without_times

from jaxqa.cli import train

STAGES = ("--config.stages=('sft','own','control')", "--config.sft.evaluate=False")


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Bench]:
    flags = "--xla_backend_optimization_level=0"
    with contextlib.closing(Bench(tmp_path_factory.mktemp("runs"), xla_flags=flags)) as bench:
        yield bench


@pytest.fixture(scope="module")
def undisturbed(bench) -> Path:
    bench.finish(bench.folder / "undisturbed", *STAGES)
    return bench.folder / "undisturbed"


def test_own_words_reach_fine_tuning(undisturbed):
    written = lines(undisturbed, "rationales/own.jsonl")
    assert len(written) == 12 and len({line["example_id"] for line in written}) == 12
    kept = [line for line in written if line["kept"]]
    assert all(line["rationales"] == ["noise"] for line in kept) and len(kept) > 6
    audit = json.loads((undisturbed / "rationales/own_audit.json").read_text())
    assert audit["images"]["asked"] == 12 and audit["images"]["kept"] == len(kept)
    assert sum(audit["images"].values()) == 24 and audit["calls"]["expert"] == {"sampled": 12}
    summary = json.loads((undisturbed / "summary.json").read_text())
    names = [stage["name"] for stage in summary["stages"]]
    assert names == ["sft", "own", "control"]
    assert summary["stages"][1]["rationales"] == audit["images"]
    assert steps(undisturbed, "control") == [4] and (undisturbed / "export").exists()


def test_a_killed_stage_goes_on_where_it_stopped(bench, undisturbed, tmp_path):
    # The file is opened anew by every process: the kill comes after some batches are in it.
    bench.crash(tmp_path, *STAGES, at=("os.rename", r"/own_audit\.json$"))
    before = (tmp_path / "rationales/own.jsonl").read_bytes()
    assert len(before.splitlines()) == 12 and steps(tmp_path, "control") == []
    cut = b"".join(before.splitlines(keepends=True)[:7]) + before.splitlines()[7][:30]
    (tmp_path / "rationales/own.jsonl").write_bytes(cut)
    bench.finish(tmp_path, *STAGES)
    assert lines(tmp_path, "rationales/own.jsonl") == lines(undisturbed, "rationales/own.jsonl")
    audit = json.loads((tmp_path / "rationales/own_audit.json").read_text())
    assert audit["calls"]["expert"] == {"sampled": 5} and audit["images"]["asked"] == 12
    assert without_times(tmp_path / "summary.json") == without_times(undisturbed / "summary.json")
    exports = [(run / "export/model.safetensors").read_bytes() for run in (tmp_path, undisturbed)]
    assert exports[0] == exports[1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("--config.stages=('control','own')",), "'own' is not a stage of kind rationales"),
        (("--config.control.rationales=('sft',)",), "'sft' is not a stage of kind rationales"),
        (("--config.control.rationales=('/nowhere.jsonl',)",), "no rationales at /nowhere.jsonl"),
        (("--config.control.teacher_fraction=2.0",), "teacher_fraction must lie in"),
        (("--config.sft.teacher_fraction=0.5",), "teacher_fraction counts only beside rationales"),
        (("--config.own.skip_fraction=1.0",), "skip_fraction is 1.0"),
        (("--config.own.evaluate=True",), "config.own.evaluate: got True"),
        (("--config.own.pipeline.name=unheard",), "config.own.pipeline"),
        (("--config.own.sampling.max_new_tokens=999",), "more than the 256 positions"),
        (("--config.own.sources=('other',)",), "'other' cannot be trained on"),
        (
            ("--config.own.expert.endpoint=http://127.0.0.1:9/v1", "--config.own.expert.model=m")
            + ("--config.own.expert.api_key_env=NO_SUCH_KEY",),
            "config.own.expert.api_key_env: the environment has no NO_SUCH_KEY",
        ),
    ],
)
def test_what_cannot_work_is_said_before_the_first_stage(
    bench, tmp_path, capsys, overrides, message
):
    stages = () if "stages" in overrides[0] else ("--config.stages=('sft','own','control')",)
    if "control.rationales" in overrides[0]:
        stages = ("--config.stages=('control',)", "--config.control.start_from=initial")
    if "('sft',)" in overrides[0]:
        stages = ("--config.stages=('sft','control')",)
    if "control','own'" in overrides[0]:
        stages = ("--config.control.start_from=initial",)
    assert train.main(bench.arguments(tmp_path, *overrides, *stages)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "checkpoints").exists()
