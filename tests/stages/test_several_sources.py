"""A run over several sources: each asked, rewarded and tested in its own way."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from rich.console import Console

from jaxqa import configuration
from jaxqa.data.batching import Buckets
from jaxqa.errors import UserError
from jaxqa.rewards.registry import RewardTerm
from jaxqa.scoring.scorer import ScoredAnswer
from jaxqa.stages import kinds, testing
from jaxqa.stages.config import parse_config
from jaxqa.stages.run import run
from jaxqa.stages.setup import read_sources, set_up
from jaxqa.stages.workdir import WorkDir

SOURCES = {
    "quality": {"dataset": "jaxqa_demo", "template": "concise_percent"},
    "beauty": {"dataset": "jaxqa_demo_aesthetics", "template": "concise_aesthetics", "weight": 2.0},
    "defects": {"dataset": "jaxqa_demo_degradation", "template": "concise_degradation"},
    "pairs": {"dataset": "jaxqa_demo_comparison", "template": "concise_comparison"},
    "words": {
        "dataset": "jaxqa_demo",
        "template": "concise_description",
        "evaluate": False,
        "weight": 0.5,
    },
    "unseen": {"dataset": "jaxqa_demo", "split": "all", "template": "concise", "weight": 0.0},
}


def write_tasks(root: Path) -> None:
    """The demo's further tasks, about the pictures of `tiny_run.write_dataset`."""
    rows: dict[str, list[dict]] = {"aesthetics": [], "degradation": [], "comparison": []}
    names = sorted(path.name for path in (root / "images").iterdir())
    for number, name in enumerate(names):
        split = {"1": "train", "2": "validation", "3": "test"}[name[2]]
        shared = {"split": split, "rationale": "noise"}
        rows["aesthetics"].append({"image": name, "gt_score": number % 10, **shared})
        labels = {"distortion_class": "noise", "severity": ("slight", "serious")[number % 2]}
        rows["degradation"].append({"image": name, **labels, **shared})
        same = [other for other in names if other[:3] == name[:3]]
        pair = {"ref_image": name, "ImageA": same[0], "ImageB": same[-1], "result": "Similar"}
        rows["comparison"].append({**pair, **shared})
    for task, lines in rows.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (root / f"{task}.jsonl").write_text(text)


def make_config(root: Path, sources=SOURCES):
    config = tiny_run.get_config(str(root))
    config.data.workers = 0
    config.data.buckets = dataclasses.asdict(
        Buckets(prompt_lengths=(160,), window_counts=(3,), completion_lengths=(64,))
    )
    with config.unlocked():
        config.data.sources = configuration.to_config_dict(sources)
        config.sft.sources = ("quality", "beauty", "words")
        config.grpo.rewards = {
            "near": dataclasses.asdict(
                RewardTerm(
                    name="gaussian", options={"sigma": 10.0}, tasks=("quality", "aesthetics")
                )
            ),
            "named": dataclasses.asdict(RewardTerm(name="degradation", tasks=("degradation",))),
        }
        config.grpo.sources = ("quality", "beauty", "defects", "pairs")
    config.warmup.sources = ("pairs",)
    config.grpo.steps, config.grpo.objective.beta = 2, 0.0
    config.stages = ("grpo",)
    return config


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tiny_run.write_dataset(tmp_path_factory.mktemp("sources") / "data")
    write_tasks(folder)
    return folder


@pytest.fixture(scope="module")
def setup(root, tmp_path_factory):
    work = WorkDir(tmp_path_factory.mktemp("work"))
    return set_up(parse_config(make_config(root)), work, Console(quiet=True))


def test_a_run_trains_and_tests_every_source(root, tmp_path):
    summary = run(parse_config(make_config(root)), tmp_path / "run", Console(quiet=True))
    (stage,) = summary["stages"]
    found = stage["evaluations"]
    assert list(found) == ["quality", "beauty", "defects", "pairs", "unseen"]
    assert stage["evaluation"] == found["quality"]
    assert found["beauty"]["dataset"] == "jaxqa_demo_aesthetics"
    assert {"plcc", "srcc", "mae", "n", "n_failed"} <= found["unseen"].keys()
    assert {"class_accuracy", "severity_accuracy"} <= found["defects"].keys()
    assert {"choice_accuracy", "n", "n_failed"} <= found["pairs"].keys()
    assert [tested["n"] for tested in found.values()] == [6, 6, 6, 6, 20]
    files = {path.name for path in (tmp_path / "run" / "evaluations").iterdir()}
    assert files == {f"grpo.{name}.jsonl" for name in found}
    lines = (tmp_path / "run" / "rollouts" / "grpo.jsonl").read_text().splitlines()
    labels = {json.loads(line)["label"] for line in lines}
    assert None in labels and len(labels) > 1  # some tasks have no score
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "class accuracy" in page and "unseen" in page


def batches(setup, name, count):
    loader = kinds.make_loader(setup, name, setup.config.sections[name])
    found = [next(loader) for _ in range(count)]
    loader.close()
    return found


def test_stages_take_their_sources_in_proportion(setup):
    assert "unseen" not in setup.train and "words" not in setup.test
    tasks = np.concatenate([batch.task for batch in batches(setup, "grpo", 20)])
    shares = np.bincount(tasks, minlength=5) / len(tasks)
    np.testing.assert_allclose(shares, [0.2, 0.4, 0.0, 0.2, 0.2], atol=0.05)
    assert {4} == {task for batch in batches(setup, "warmup", 2) for task in batch.task.tolist()}
    for batch in batches(setup, "sft", 4):
        assert batch.completion_mask.any(-1).all()
        scored = np.isfinite(batch.labels)
        assert (batch.labels[scored & (batch.task == 1)] <= 5).all()  # 0..10 asked for as 1..5


def test_a_stage_may_weigh_its_sources_itself(setup):
    stage = dataclasses.replace(
        setup.config.sections["grpo"], sources=("beauty", "quality"), source_weights=(1.0, 3.0)
    )
    loader = kinds.make_loader(setup, "grpo", stage)
    tasks = np.concatenate([next(loader).task for _ in range(20)])
    loader.close()
    assert tasks.mean() == pytest.approx(0.25, abs=0.03)
    for weights in ((1.0,), (1.0, 0.0), (1.0, 1.0, 1.0)):
        with pytest.raises(ValueError, match="source_weights"):
            dataclasses.replace(stage, source_weights=weights)


def test_numbers_are_brought_back_to_the_labels_range(setup):
    source = setup.test["beauty"]
    image = source.examples[0]

    def judged(score):
        answer = ScoredAnswer(example=image, text="...", score=score, error=None)
        return testing.prediction(answer, source, setup.work)

    assert (judged(4.0).score, judged(4.0).answer, judged(5.0).score) == (7.5, 4.0, 10.0)
    assert judged(0.5).score is None and "outside 1..5" in str(judged(0.5).error)
    assert judged(7.5).score is None  # a label, but no answer to what was asked


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quality": {"template": "concise_degradation"}}, "no image of jaxqa_demo has a distor"),
        ({"defects": {"template": "concise"}}, "no image of jaxqa_demo_degradation has a score"),
        ({"words": {"evaluate": True}}, "cannot be tested; set evaluate to False"),
        ({"beauty": {"dataset": "avaa"}}, "config.data.sources.beauty: unknown data set 'avaa'"),
        ({"beauty": {"root": "/nowhere"}}, "config.data.sources.beauty: .*/nowhere"),
    ],
)
def test_sources_that_do_not_fit_are_named(root, change, message):
    sources = {name: SOURCES[name] | change.get(name, {}) for name in SOURCES}
    with pytest.raises(UserError, match=message):
        read_sources(parse_config(make_config(root, sources)), root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": -1.0}, "weight must be at least 0"),
        ({"split": "all"}, 'split "all" tests on what it trains on'),
        ({"template": "concise", "scale": "x"}, "expected one of 'label', 'measured'"),
    ],
)
def test_impossible_sources_are_refused(root, change, message):
    sources = SOURCES | {"quality": SOURCES["quality"] | change}
    with pytest.raises(UserError, match=message):
        parse_config(make_config(root, sources))


def test_a_source_can_be_left_out_by_flags(root):
    """A full-size config tests on more data sets than everybody has."""
    left_out = SOURCES["quality"] | {"weight": 0.0, "evaluate": False, "root": "/nowhere"}
    config = parse_config(make_config(root, SOURCES | {"other": left_out}))
    train, test = read_sources(config, root)
    assert "other" not in train.keys() | test.keys() and "quality" in train.keys() & test.keys()


def test_sources_have_names_and_the_prompts_texts_can_be_replaced(root):
    with pytest.raises(UserError, match="source name 'a-b' cannot name files"):
        parse_config(make_config(root, {"a-b": SOURCES["quality"], **SOURCES}))
    own = {"system": "", "question": "How good is <image>?"}
    config = parse_config(make_config(root, SOURCES | {"quality": SOURCES["quality"] | own}))
    train, test = read_sources(config, root)
    for source in (train["quality"], test["quality"]):
        (user,) = source.template.messages(source.examples[0])
        assert [part["type"] for part in user["content"]] == ["text", "image", "text"]
        assert source.template.answer == "number" and source.template.high == 100.0
