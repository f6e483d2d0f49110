"""The stage that writes rationales: stopped, gone on with, audited by people, read by SFT."""

import contextlib
import csv
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_run
from rich.console import Console
from test_survival import Bench, lines, steps, without_times

from jaxqa.cli import train
from jaxqa.configuration import apply_override
from jaxqa.data.prompts import get_template
from jaxqa.errors import UserError
from jaxqa.reasoning.own import question
from jaxqa.reasoning.pipeline import Item
from jaxqa.reasoning.policy import PolicyExpert
from jaxqa.sampling.config import SamplingConfig
from jaxqa.scoring.scorer import Scorer
from jaxqa.stages import kinds, rationales, run
from jaxqa.stages.config import RunConfig, parse_config
from jaxqa.stages.setup import Setup, set_up
from jaxqa.stages.workdir import WorkDir, open_workdir
from jaxqa.train.json_lines import write_json_lines
from jaxqa.train.stop import Stopped, StopRequest

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tiny_run.write_dataset(tmp_path_factory.mktemp("rationales") / "data")


def configured(data: Path, **changes: str) -> RunConfig:
    """The tiny run with `a__b="1"` for `--config.a.b=1`."""
    config = tiny_run.get_config(str(data))
    for key, value in changes.items():
        apply_override(config, key.replace("__", "."), value)
    return parse_config(config)


def without_policy(data: Path, **changes: str) -> RunConfig:
    """Only the stages around the file, and nobody who thinks."""
    start = {"stages": "('own','control')", "own__expert__stand_in": "True"}
    return configured(data, **(start | {"control__start_from": "previous"} | changes))


class StopLater(StopRequest):
    """Asks to stop at the n-th look."""

    def __init__(self, looks: int):
        super().__init__()
        self.left = looks

    def check(self, work: str) -> None:
        if "own" in work:
            self.left -= 1
            self.requested = self.left < 0
        super().check(work)


ENDPOINT = {"own__expert__endpoint": "http://old:1/v1", "own__expert__model": "some"}


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"own__expert__endpoint": "http://new:2/v1", "own__expert__api_key_env": "KEY"}, None),
        ({"own__expert__timeout_seconds": "900.0", "own__expert__retries": "9"}, None),
        ({"own__expert__concurrency": "1", "own__expert__backoff_seconds": "9.0"}, None),
        ({"own__expert__cache": "elsewhere"}, None),
        ({"own__expert__model": "another", "own__expert__retries": "9"}, "expert.model"),
        ({"own__expert__endpoint": "", "own__expert__model": ""}, "expert.endpoint"),
        ({"own__expert__max_pixels": "100"}, "expert.max_pixels"),
    ],
)
def test_a_run_goes_on_whatever_its_expert_is_reached_by(data, tmp_path, change, refused):
    with open_workdir(tmp_path, configured(data, **ENDPOINT)) as work:
        work.claim(configured(data, **ENDPOINT))
    with pytest.raises(UserError, match=refused) if refused else contextlib.nullcontext():
        with open_workdir(tmp_path, configured(data, **(ENDPOINT | change))):
            pass


def write(made: Setup, stop: StopRequest | None = None) -> dict[str, Any]:
    """The stage alone, in the set-up's work directory."""
    stage = made.config.sections["own"]
    return rationales.write(made, "own", stage, {}, stop or StopRequest())[0]


def test_a_stopped_stage_goes_on_and_fine_tuning_reads_its_file(data, tmp_path):
    config = without_policy(data)
    path = tmp_path / "rationales/own.jsonl"
    with pytest.raises(Stopped, match="stopped on request during stage own"):
        write(set_up(config, WorkDir(tmp_path), QUIET), StopLater(3))
    assert len(lines(tmp_path, "rationales/own.jsonl")) == 4  # one of three batches
    path.write_bytes(path.read_bytes() + b'{"example_id": 12, "ra')
    summary = run.run(config, tmp_path, QUIET)
    written = lines(tmp_path, "rationales/own.jsonl")
    assert len({line["example_id"] for line in written}) == len(written) == 12
    assert all(line["kept"] and line["rationales"] == ["noise"] for line in written)
    audit = json.loads((tmp_path / "rationales/own_audit.json").read_text())
    assert audit["images"] == {"asked": 12, "not_asked": 0, "kept": 12}
    assert audit["calls"] == {"expert": {"requests": 8}}
    own, control = summary["stages"]
    assert own["name"] == "own" and own["rationales"] == audit["images"]
    assert control["name"] == "control" and steps(tmp_path, "control") == [4]
    assert (tmp_path / "export").exists() and (tmp_path / "report/index.html").exists()
    assert run.run(config, tmp_path, QUIET) == summary


def test_people_judge_a_sample_before_the_run_goes_on(data, tmp_path):
    config = without_policy(data, own__human_audit="5")
    made = set_up(config, WorkDir(tmp_path), QUIET)
    with pytest.raises(UserError, match="own_human.csv: 5 of 5 verdicts are missing; read .*html"):
        write(made)
    page = (tmp_path / "rationales/own_human.html").read_text()
    assert page.count("<article") == 5 and page.count("data:image/png;base64,") == 5
    table = tmp_path / "rationales/own_human.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    verdicts = ["keep", "Drop ", "keep", "", "keep"]
    _fill(table, rows, verdicts)
    with pytest.raises(UserError, match="1 of 5 verdicts are missing"):
        write(made)
    verdicts[3] = "perhaps"
    _fill(table, rows, verdicts)
    with pytest.raises(UserError, match="own_human.csv: verdict or column 'perhaps' is unknown"):
        write(made)
    verdicts[3] = "drop"
    _fill(table, rows, verdicts)
    audit = write(made)
    assert audit["human"] == {"asked": 5, "keep": 3, "drop": 2, "open": 0}
    assert audit["images"]["kept"] == 12
    (source,) = kinds.stage_sources(made, config.sections["control"])
    rejected = {int(row["id"][3:], 16) for row in (rows[1], rows[3])}
    assert len(source.examples) == 10
    assert not rejected & {example.example_id for example in source.examples}


def _fill(table: Path, rows: list[dict], verdicts: list[str]) -> None:
    with table.open("w", newline="", encoding="utf-8-sig") as file:  # as spreadsheets save
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(
            row | {"verdict": verdict} for row, verdict in zip(rows, verdicts, strict=True)
        )


def _set_up(config: RunConfig) -> Setup:
    root = Path(config.data.root or "").parent / "work"
    return set_up(config, WorkDir(root), QUIET)


@pytest.fixture(scope="module")
def setup(data) -> Setup:
    config = tiny_run.get_config(str(data))
    # A random tied model repeats its last token; this one answers differently to each image.
    config.model.initializer_range = 0.3
    config.model.text.tie_word_embeddings = False
    return _set_up(parse_config(config))


def test_the_policy_answers_as_the_scorer_does_whatever_its_neighbours(setup):
    (source,) = setup.train.values()
    items = [Item(example=example, source=source) for example in source.examples[:6]]
    params = setup.initial_params()
    shared = {
        "model": setup.model,
        "encoder": setup.encoder,
        "mesh": setup.mesh,
        "buckets": setup.config.data.buckets,
        "batch_size": 4,
    }
    scorer = Scorer(**shared, template=source.template, max_new_tokens=8)
    answers = scorer.score(params, [item.example for item in items])
    texts = {answer.example.example_id: answer.text for answer in answers}
    expert = PolicyExpert(**shared, params=params, seed=0, stage="own")
    looks = []
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=8)
    asked = [question(item, greedy) for item in items]
    replies = expert.ask(asked, lambda: looks.append(None))
    assert [reply[0].text for reply in replies] == [texts[i.example.example_id] for i in items]
    assert {reply[0].problem for reply in replies} == {"cut_off"} and len(looks) == 2
    assert len(set(texts.values())) > 1

    plan = ({"role": "user", "content": [{"type": "text", "text": "Plan it: noise"}]},)
    bare = dataclasses.replace(asked[0], messages=plan, images=())
    mixed = expert.ask([asked[1], bare, asked[2]], lambda: None)
    assert mixed == [replies[1], *expert.ask([bare], lambda: None), replies[2]]
    assert mixed[1][0].problem == "cut_off" and mixed[1] not in replies

    drawn = SamplingConfig(num_samples=3, max_new_tokens=8)
    asked = [question(item, drawn) for item in items]
    first = expert.ask(asked, lambda: None)
    assert [expert.ask([one], lambda: None)[0] for one in asked[4:]] == first[4:]
    assert len({sample.text for reply in first for sample in reply}) > 6
    other = expert.ask([dataclasses.replace(asked[0], turn=1)], lambda: None)
    assert other[0] != first[0]
    bad = expert.ask([dataclasses.replace(asked[0], images=(b"rubbish",))], lambda: None)
    assert [sample.problem for sample in bad[0]] == ["refused"] * 3


def test_scores_from_one_data_set_only(setup, tmp_path):
    """Cross-domain fine-tuning: texts of every set, the scores of one."""
    (source,) = setup.train.values()
    described = dataclasses.replace(
        source, name="described", template=get_template("concise_description")
    )
    texts = [[f"seed {seed}" for seed in range(2)], ["alone"]]
    records = [
        {"example_id": example.example_id, "rationales": texts[number]}
        for number, example in enumerate(source.examples[:2])
    ]
    write_json_lines(tmp_path / "one.jsonl", records[:1])
    write_json_lines(tmp_path / "two.jsonl", records)
    made = dataclasses.replace(setup, train={"demo": source, "described": described})
    paths = (str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl"))
    stage = dataclasses.replace(setup.config.sections["sft"], rationales=paths)
    scored, plain = kinds.stage_sources(made, stage)
    expected = [*texts[0], *texts[0], "alone"]
    assert (
        [e.rationale for e in scored.examples] == expected == [e.rationale for e in plain.examples]
    )
    targets = [scored.template.target(e, scored.score(e)) for e in scored.examples]
    assert targets[-1] == "<think> alone </think><answer> 1.31 </answer><|im_end|>"
    assert plain.template.target(plain.examples[-1]) == "alone<|im_end|>"
    taught = dataclasses.replace(stage, teacher_fraction=1.0)
    assert {e.rationale for s in kinds.stage_sources(made, taught) for e in s.examples} == {"noise"}
    write_json_lines(tmp_path / "one.jsonl", [{"example_id": 5, "rationales": ["x"]}])
    with pytest.raises(UserError, match="source 'demo': .*one.jsonl holds no text about any of"):
        kinds.stage_sources(made, dataclasses.replace(stage, rationales=paths[:1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": "('control','own')"}, "'own' is not a stage of kind rationales"),
        ({"control__rationales": "('sft',)"}, "'sft' is not a stage of kind rationales"),
        ({"control__rationales": "('/no.jsonl',)"}, "no rationales at /no.jsonl"),
        ({"control__teacher_fraction": "2.0"}, "teacher_fraction must lie in"),
        ({"sft__teacher_fraction": "0.5"}, "teacher_fraction counts only beside rationales"),
        ({"own__skip_fraction": "1.0"}, "skip_fraction is 1.0"),
        ({"own__evaluate": "True"}, "config.own.evaluate: got True"),
        ({"own__pipeline__name": "unheard"}, "config.own.pipeline"),
        (
            {"own__expert__stand_in": "False", "own__sampling__max_new_tokens": "999"},
            "more than the 256 positions",
        ),
        ({"own__sources": "('other',)"}, "'other' cannot be trained on"),
        (
            {
                "own__expert__stand_in": "False",
                "own__expert__endpoint": "http://127.0.0.1:9/v1",
                "own__expert__model": "m",
                "own__expert__api_key_env": "NO_SUCH_KEY",
            },
            "config.own.expert.api_key_env: the environment has no NO_SUCH_KEY",
        ),
    ],
)
def test_what_cannot_work_is_said_before_the_first_stage(data, tmp_path, capsys, changes, message):
    start = {"stages": "('own','control')", "own.expert.stand_in": "True"}
    start |= {"control.start_from": "previous"}
    options = start | {key.replace("__", "."): value for key, value in changes.items()}
    if "sft" in changes.get("control__rationales", ""):
        options["stages"] = "('sft','control')"
    arguments = [f"--config.{key}={value}" for key, value in options.items()]
    config = f"--config={Path(tiny_run.__file__)}:{data}"
    assert train.main([config, f"--workdir={tmp_path}", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "rationales").exists() and not (tmp_path / "checkpoints").exists()


STAGES = ("--config.stages=('sft','own','control')", "--config.sft.evaluate=False")


@pytest.fixture
def bench(tmp_path_factory) -> Iterator[Bench]:
    flags = "--xla_backend_optimization_level=0"
    with contextlib.closing(Bench(tmp_path_factory.mktemp("runs"), xla_flags=flags)) as bench:
        yield bench


@pytest.mark.slow
def test_a_killed_run_of_the_policy_ends_in_the_same_bits(bench, tmp_path):
    whole = bench.folder / "whole"
    bench.finish(whole, *STAGES)
    written = lines(whole, "rationales/own.jsonl")
    kept = [line for line in written if line["kept"]]
    assert all(line["rationales"] == ["noise"] for line in kept) and len(kept) > 6
    bench.crash(tmp_path, *STAGES, at=("os.rename", r"/own_audit\.json$"))
    before = (tmp_path / "rationales/own.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "rationales/own.jsonl").write_bytes(b"".join(before[:7]) + before[7][:30])
    bench.finish(tmp_path, *STAGES)
    assert lines(tmp_path, "rationales/own.jsonl") == written
    audit = json.loads((tmp_path / "rationales/own_audit.json").read_text())
    assert audit["calls"]["expert"] == {"sampled": 5} and audit["images"]["asked"] == 12
    assert without_times(tmp_path / "summary.json") == without_times(whole / "summary.json")
    exports = [(folder / "export/model.safetensors").read_bytes() for folder in (tmp_path, whole)]
    assert exports[0] == exports[1]
