"""Every arm of the ablations and of RALI's table is a config that parses, with what is measured."""

import importlib.util
import json
from pathlib import Path

import pytest

from jaxqa import configuration
from jaxqa.stages.config import parse_config

ROOT = Path(__file__).parents[2]


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse(arguments):
    """The config of a training command, as the door reads it."""
    (file,) = [a.removeprefix("--config=") for a in arguments if a.startswith("--config=")]
    config = configuration.load_config_file(str(ROOT / file))
    for argument in arguments:
        if argument.startswith("--config."):
            key, _, value = argument.removeprefix("--config.").partition("=")
            configuration.apply_override(config, key, value)
    return parse_config(config)


ABLATIONS = load_script("ablations")
ARMS = [(name, arm) for name, study in ABLATIONS.STUDIES.items() for arm in study.arms]
COMMANDS = {ABLATIONS.STUDIES[name].arms[arm] for name, arm in ARMS}


@pytest.mark.parametrize(("name", "arm"), ARMS)
def test_an_arm_parses_and_runs_what_is_measured(name, arm):
    study = ABLATIONS.STUDIES[name]
    config = parse(study.arms[arm])
    assert study.stage in config.stages and config.sections[study.stage].evaluate
    others = [parse(study.arms[other]) for other in study.arms if other != arm]
    assert all(config != other for other in others)  # the arms differ


def test_arms_share_a_run_only_if_it_is_the_same_command():
    names = {command: ABLATIONS.run_name(command) for command in COMMANDS}
    assert len(set(names.values())) == len(names) == len(ARMS) - 1  # gaussian is filter + gate
    assert ABLATIONS.run_name(ABLATIONS.STUDIES["gate"].arms["filter + gate"]) == (
        "reward_shape-gaussian"
    )


def test_the_rows_of_rali_parse_and_name_stages_that_are_tested(tmp_path, monkeypatch):
    script, commands = load_script("rali_demo"), []

    def ran(command, **options):
        if command[0] == "git":
            return type("Done", (), {"stdout": ""})
        commands.append(command[1:])
        place = Path(next(a for a in command if a.startswith("--workdir=")).partition("=")[2])
        stages = [{"name": n, "evaluation": FIGURES} for n in ("grpo", *script.MEASURED)]
        place.mkdir(parents=True)
        (place / "summary.json").write_text(json.dumps({"stages": stages, "seconds": 1.0}))

    monkeypatch.setattr(script.subprocess, "run", ran)
    row = script.run(tmp_path, 0, [])
    teacher, pupil = map(parse, commands)
    assert teacher.stages[-1] == "grpo" and teacher.data.demo == pupil.data.demo
    assert pupil.model.path == str(tmp_path / "teacher-seed0" / "export")
    assert pupil.stages == (*script.TRAINED, *script.MEASURED)
    assert pupil.sections["rationales"].sampling.num_samples == 4
    assert pupil.sections["align_one_seed"].alignment.max_rationales == 1
    table = script.tables([row])
    assert table.count("0.500 / 0.250 / 0.100") == 2 * (2 + 6 + 10) and "| mean |" in table
    script.append(tmp_path / "rows.jsonl", row)
    assert script.read_rows(tmp_path / "rows.jsonl") == [row]


FIGURES = {"plcc": 0.5, "srcc": 0.25, "mae": 0.1}


def test_a_stopped_run_gives_no_row(tmp_path):
    script = load_script("rali_demo")
    (tmp_path / "summary.json").write_text('{"stages": [{"name": "sft"}], "seconds": 1}')
    with pytest.raises(SystemExit, match="stopped before grpo; run the same command again"):
        script._check_complete(tmp_path, ("sft", "grpo"))
