"""Every config of a published system: it is built at full size, and runs through on the demo."""

import ast
import math
import re
from pathlib import Path

import pytest
from rich.console import Console

from jaxqa import configuration
from jaxqa.data.prompts import get_template
from jaxqa.data.registry import dataset_info
from jaxqa.data.scales import score_scale
from jaxqa.errors import UserError
from jaxqa.evaluation.suites import get_suite
from jaxqa.rewards.labels import TASKS
from jaxqa.stages import run
from jaxqa.stages.config import parse_config
from jaxqa.stages.sections import GrpoStage, SftStage, WarmupStage
from jaxqa.train.json_lines import read_json_lines

CONFIGS = Path(__file__).parents[2] / "configs"

MODES = {
    "q_insight": ("3b", "lora"),
    "visualquality_r1": (),
    "tatar": ("released", "slow_quality", "fast_aesthetics", "swapped", "symmetric", "agnostic"),
    "aes_r1": ("10k", "binary", "binary_rank"),
    "omniquality_r": ("threshold",),
    "ract": ("mixed", "mixed_ranking", "all_scores", "score_only", "no_reasoning", "lora"),
}
CASES = [(name, mode) for name, modes in MODES.items() for mode in ("full", *modes)]


def load(name, mode):
    return configuration.load_config_file(f"{CONFIGS / name}.py:{mode}")


def test_every_system_has_its_config():
    assert {path.stem for path in CONFIGS.glob("*.py")} - {"demo", "rali"} == set(MODES)


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_a_full_size_config_fits_together(name, mode):
    config = parse_config(load(name, mode))
    for source in config.data.sources.values():
        template, info = get_template(source.template), dataset_info(source.dataset)
        assert template.task == info.task
        score_scale(info, template, source.scale)  # raises where the range is not known
    for section in config.sections.values():
        assert set(section.sources) <= set(config.data.sources)
        if isinstance(section, GrpoStage):
            sources = config.data.sources
            asked = section.sources or tuple(name for name in sources if sources[name].weight)
            tasks = {get_template(config.data.sources[name].template).task for name in asked}
            rewarded = {task for term in section.rewards.values() for task in term.tasks or TASKS}
            assert tasks <= rewarded
            assert section.batch_size % (config.mesh.data * config.mesh.fsdp) == 0


TESTED = {
    "q_insight": "rali",
    "tatar": "tatar",
    "aes_r1": "aes_r1",
    "omniquality_r": "omniquality_r",
    "ract": "ract",
}


@pytest.mark.parametrize("name", list(TESTED))
def test_a_full_size_config_tests_as_its_paper_does(name):
    sources = parse_config(load(name, "full")).data.sources.values()
    found = {source.dataset for source in sources if source.evaluate}
    assert found == {dataset.partition(":")[0] for dataset in get_suite(TESTED[name]).datasets}
    for source in sources:
        info = dataset_info(source.dataset)
        assert source.split in ("", "all", *info.splits) or info.own_counts, source


# Images in a step, answers to each, KL, upper clip, as published.
PUBLISHED = {
    ("q_insight", "full", "grpo"): (16, 8, 0.001, 0.2),
    ("visualquality_r1", "full", "grpo"): (64, 6, 0.04, 0.2),
    ("ract", "full", "koniq"): (16, 8, 0.001, 0.2),
    ("ract", "mixed_ranking", "mixed"): (64, 6, 0.04, 0.2),
    ("tatar", "full", "grpo"): (16, 8, 0.001, 0.2),
    ("aes_r1", "full", "rapo"): (128, 4, 0.01, 0.28),
    ("omniquality_r", "full", "grpo"): (64, 16, 0.04, 0.2),
    ("omniquality_r", "full", "grpo_phase2"): (64, 16, 0.04, 0.2),
}


@pytest.mark.parametrize("case", list(PUBLISHED))
def test_published_numbers_of_reinforcement_learning(case):
    name, mode, stage = case
    config = parse_config(load(name, mode))
    section = config.sections[stage]
    numbers = section.batch_size, section.sampling.num_samples
    assert (*numbers, section.objective.beta, section.objective.clip_high) == PUBLISHED[case]
    assert section.objective.clip_low == 0.2
    optimizer = section.optimizer
    assert (optimizer.learning_rate, optimizer.schedule, optimizer.clip_norm) == (1e-6, "linear", 1)
    assert optimizer.weight_decay == 0 and optimizer.end_fraction <= 1e-3
    assert section.sampling.temperature == 1 and section.sampling.top_k == 50


@pytest.mark.parametrize("mode", ["full", "3b"])
def test_q_insight_sees_koniq_ten_times(mode):
    stage = parse_config(load("q_insight", mode)).sections["grpo"]
    assert stage.sources == (("score",) if mode == "3b" else ("score", "degradation"))
    assert stage.steps * stage.batch_size / len(stage.sources) == pytest.approx(70_460, abs=16)


def test_rewards_are_symmetric_only_in_the_probe():
    def terms(mode):
        rewards = parse_config(load("tatar", mode)).sections["grpo"].rewards
        return {term.name: term.tasks for key, term in rewards.items() if key != "format"}

    asymmetric = {"adaptive_gaussian": ("quality",), "completion_ranking": ("aesthetics",)}
    assert terms("full") == terms("swapped") == asymmetric
    assert terms("symmetric") == terms("agnostic") == {"adaptive_gaussian": ()}


def test_the_task_agnostic_baseline_has_one_way_for_both_tasks():
    sections = parse_config(load("tatar", "agnostic")).sections
    assert sections["fast"].pipeline.fast_tasks == () == sections["grpo"].rewards["quality"].tasks
    assert sections["grpo"].rewards["quality"].options["max_words"] == 0


@pytest.mark.parametrize(("mode", "scored"), [("full", 1), ("all_scores", 4)])
def test_ract_takes_scores_of_one_data_set_unless_told(mode, scored):
    config = parse_config(load("ract", mode))
    asked = [config.data.sources[name] for name in config.sections["cross_domain"].sources]
    answers = [get_template(source.template).answer for source in asked]
    assert answers.count("text") == 4 and answers.count("json") == scored


def test_narratives_are_as_long_as_their_reward_asks():
    config = parse_config(load("tatar", "released"))
    pipeline, gate = config.sections["slow"].pipeline, config.sections["grpo"].rewards["aesthetics"]
    assert pipeline.slow_words[0] >= gate.options["min_words"] == 125 < pipeline.slow_aim
    assert parse_config(load("tatar", "full")).sections["slow"].pipeline.slow_aim == 100


def test_omniquality_r_fine_tunes_on_the_papers_rows():
    config = parse_config(load("omniquality_r", "full"))
    sft, plan = config.sections["sft"], config.sections["plan_then_reason"].pipeline
    assert sum(sft.source_weights) == 41_183 and sum(plan.counts.values()) == 15_206
    images = dict(zip(sft.sources, sft.source_weights, strict=True))
    asked = {get_template(config.data.sources[name].template).task for name in images}
    assert asked == set(plan.counts)


FLAG = re.compile(r"--config\.([\w{},.]+)=(\"[^\"]*\"|[^\s,;()]+)")


def flags_of(text):
    """Every option that a docstring sets, as (key, value); braces are the shell's."""
    for key, value in FLAG.findall(text):
        before, braces, rest = key.partition("{")
        inside, _, after = rest.partition("}")
        for name in inside.split(",") if braces else ("",):
            yield before + name + after, value.strip('"').rstrip(".")


def accepts(name, mode, flags):
    """Whether a config takes options, and becomes another by them."""
    config = load(name, mode)
    try:
        for key, value in flags:
            configuration.apply_override(config, key, value)
        return parse_config(config) != parse_config(load(name, mode))
    except (UserError, ValueError):
        return False


@pytest.mark.parametrize("name", list(MODES))
def test_what_a_docstring_tells_people_to_type_is_valid(name):
    text = ast.get_docstring(ast.parse((CONFIGS / f"{name}.py").read_text()))
    for file, mode in re.findall(r"(\w+)\.py:(\w+)", text):
        assert parse_config(load(file, mode)).stages
    some_source = next(iter(load(name, "full").data.sources))
    flags = [(key.replace("NAME", some_source), value) for key, value in flags_of(text)]
    for place in range(len(flags)):
        # Alone, or together with those that follow it.
        takes = (
            accepts(name, mode, flags[place : place + count])
            for count in (1, 4)
            for mode in ("full", *MODES[name])
        )
        assert any(takes), flags[place]


def test_unknown_modes_are_refused():
    with pytest.raises(Exception, match="no mode 'large'; expected one of full, demo"):
        load("visualquality_r1", "large")


def shrunk(name):
    """The demo of a system, every stage of it, in a few steps of a tiny model."""
    config = load(name, "demo")
    config.model.vision.update(depth=1, hidden_size=32, intermediate_size=32, num_heads=2)
    config.model.vision.update(fullatt_block_indexes=(0,), out_hidden_size=32)
    config.model.text.update(hidden_size=32, intermediate_size=32, num_hidden_layers=2)
    config.model.text.tie_word_embeddings = False  # learns the form of answers sooner
    config.model.text.update(num_attention_heads=2, num_key_value_heads=1, mrope_section=(2, 3, 3))
    config.data.demo.update(crop_size=56, photograph_crops=7, auxiliary_crops=0)
    config.data.demo.update(procedural_crops=8, validation_crops=1, test_crops=1)
    config.data.demo.update(train_distortions=4, alignment_pictures=20, wallpapers=False)
    config.evaluation.update(batch_size=8, limit=8, max_new_tokens=24)
    for section in parse_config(config).sections:
        stage = config[section]
        stage.batch_size = 4
        if "steps" in stage:
            # The policy that writes rationales in RACT must write whole answers.
            long = 200 if section == "instruct" else 60
            stage.update(steps=long if stage.kind == "sft" else 2, save_every=30)
            stage.optimizer.learning_rate = 0.01  # learns the form of answers in those steps
        if "micro_batches" in stage:
            stage.micro_batches = min(stage.micro_batches, 2)
        if "sampling" in stage:
            stage.sampling.max_new_tokens = min(stage.sampling.max_new_tokens, 48)
        if stage.kind == "rationales":
            stage.sampling.temperature = 0.1  # the form of answers is all that it learned
    return config


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODES))
def test_the_demo_of_a_system_runs_through(name, tmp_path):
    config = parse_config(shrunk(name))
    summary = run.run(config, tmp_path / "run", Console(quiet=True))
    assert tuple(stage["name"] for stage in summary["stages"]) == config.stages
    lines = list(read_json_lines(tmp_path / "run" / "metrics.jsonl"))
    for stage, section in config.sections.items():
        logged = [line for line in lines if line["stage"] == stage]
        if isinstance(section, WarmupStage | SftStage | GrpoStage):
            assert [line["step"] for line in logged] == list(range(1, section.steps + 1))
        for line in logged:
            # A mean over nothing has no value; so there is one only where groups are trained on.
            missing = [name for name, value in line.items() if value is None]
            assert not missing or line["all_filtered"] == 1, missing
            assert all(math.isfinite(v) for v in line.values() if isinstance(v, float))
        if isinstance(section, GrpoStage):
            assert {f"reward_{key}" for key in section.rewards} <= logged[0].keys()
    assert (tmp_path / "run" / "export" / "config.json").exists()
    assert (tmp_path / "run" / "report" / "index.html").exists()
