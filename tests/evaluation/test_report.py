import html.parser
import json
import re

import numpy as np
import pytest
from PIL import Image

from jaxqa.errors import UserError
from jaxqa.evaluation import report, run_files
from jaxqa.evaluation.evaluator import (
    Prediction,
    predictions_path,
    summarise,
    write_predictions,
)
from jaxqa.train.json_lines import write_json_lines

HOSTILE = (
    "</p></style></svg><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>"
    "\" onload='alert(3)' {{ 7 * 7 }} {% raw %} &lt; ]]> --> \u202egnp.exe\x00\x1b[31m \ud800"
)


class Page(html.parser.HTMLParser):
    """The page's elements and its visible text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)


def make_predictions(workdir, count, *, side=24, dataset="jaxqa_demo", text=None):
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8)).save(workdir / "a.png")
    return [
        Prediction(
            example_id=i,
            image="a.png",
            dataset=dataset,
            label=float(random.uniform(1, 5)),
            score=None if i == 2 else float(random.uniform(1, 5)),
            text=text or f"<think>thought {i}</think><answer>3</answer>",
            error="no number could be parsed from the answer" if i == 2 else None,
            distortion="gaussian_blur",
        )
        for i in range(count)
    ]


def make_run(workdir, *, count=9, hostile=False, **options):
    """A work directory of three stages: warmup without answers, sft, grpo with rollouts."""
    text = HOSTILE if hostile else "<think>soft</think><answer>3</answer>"
    workdir.mkdir()
    predictions = make_predictions(workdir, count, text=HOSTILE if hostile else None, **options)
    stages = []
    for name in ("warmup", "sft", "grpo"):
        stage = {"name": name, "steps": 6, "seconds": 61.0, "evaluation": None}
        if name != "warmup":
            write_predictions(predictions_path(workdir, name), predictions)
            stage["evaluation"] = summarise(predictions)
        stages.append(stage)
    summary = {"stages": stages, "seconds": 200.0}
    (workdir / "summary.json").write_text(json.dumps(summary))
    config = {
        "seed": 3,
        "data": {"sources": {"x": {"dataset": predictions[0].dataset, "template": text}}},
    }
    (workdir / "config.json").write_text(json.dumps(config))
    metrics = [
        {"stage": name, "step": step, "loss": 1 / step, text[:40]: 1.0, "reward": None}
        for name in ("warmup", "sft", "grpo")
        for step in range(1, 7)
    ]
    write_json_lines(workdir / "metrics.jsonl", metrics)
    answers = [
        {"step": step, "example_id": 1, "text": text, "score": None, "reward": 0.5, "label": text}
        for step in range(1, 7)
    ]
    write_json_lines(workdir / "rollouts" / "grpo.jsonl", answers)
    (workdir / "data").mkdir()
    manifest = {"scenes": [{"name": text, "licence": "CC0-1.0", "source": text}]}
    (workdir / "data" / "manifest.json").write_text(json.dumps(manifest))
    return workdir


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="module")
def page(run):
    return Page(report.write_report(run).read_text("utf-8"))


def test_report_shows_every_part_of_the_run(run, page):
    assert run.joinpath("report", "index.html").exists()
    summary = json.loads((run / "summary.json").read_text())
    srcc = f"{summary['stages'][2]['evaluation']['srcc']:.2f}".replace("-", "−")
    assert f"a rank correlation of {srcc} ({srcc} after sft)." in " ".join(page.text.split())
    assert "The best value of a column is bold." in page.text
    plcc = f"{summary['stages'][2]['evaluation']['plcc']:.3f}".replace("-", "−")
    for text in (
        plcc,
        "1 of 9",
        "After sft",
        "After grpo",
        "Loss",
        "thought 0",
        "gaussian blur",
        "CC0-1.0",
        "no number could be parsed",
        "Step 6",
        '"seed": 3',
    ):
        assert text in page.text
    assert page.count("img") == 9  # every photograph once
    assert page.count("svg") == 2 * 2 + 3 * 2  # scatter and histogram; loss and the odd metric
    assert page.count("tr") == 1 + 3


def test_synthetic_labels_are_called_so(page, tmp_path):
    assert "The labels are synthetic." in page.text
    real = report.write_report(make_run(tmp_path / "real", dataset="kadid10k"))
    assert "synthetic" not in Page(real.read_text("utf-8")).text


def test_page_is_deterministic_and_replaced_in_one_step(run):
    path = report.write_report(run)
    before = path.read_bytes()
    assert report.write_report(run).read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["index.html"]


def test_page_is_self_contained_and_runs_nothing(run, tmp_path):
    hostile = make_run(tmp_path / "a<b>&", hostile=True)
    for workdir in (run, hostile):
        text = report.write_report(workdir).read_text("utf-8")
        page = Page(text)
        assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object"}
        for tag, attributes in page.elements:
            assert not [name for name in attributes if name.startswith("on")], tag
            for name in ("src", "href", "xlink:href", "srcset", "action"):
                value = attributes.get(name) or "#"
                assert value.startswith(("data:image/", "#")), (tag, value)
        assert not re.search(r"@import|url\((?!#)", text)
        assert "default-src 'none'" in text


def test_hostile_text_is_shown_as_text(tmp_path):
    text = report.write_report(make_run(tmp_path / "run", hostile=True)).read_text("utf-8")
    page = Page(text)
    assert "<script>alert(1)</script>" in page.text and "{{ 7 * 7 }}" in page.text
    assert not set(text) & set("\u202e\x00\x1b\ud800")
    assert page.count("tr") == 1 + 3 and page.count("article") == 9


def test_only_the_summary_is_needed(tmp_path):
    summary = {"stages": [{"name": "warmup", "evaluation": None}], "seconds": None}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    page = Page(report.write_report(tmp_path).read_text("utf-8"))
    assert "This stage logged no metrics." in page.text
    assert page.count("svg") == 0 and page.count("img") == 0


def test_lost_photographs_leave_their_cards(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "a.png").unlink()
    page = Page(report.write_report(run).read_text("utf-8"))
    assert page.count("img") == 0 and page.count("article") == 9
    assert "a.png cannot be read any more" in page.text


def test_page_of_a_hundred_noisy_photographs_is_small(tmp_path):
    run = make_run(tmp_path / "run", count=100, side=600)
    assert report.write_report(run).stat().st_size < 5_000_000


def test_manifest_given_by_path_is_listed(run, tmp_path):
    manifest = tmp_path / "other.json"
    manifest.write_text(json.dumps({"scenes": [{"name": "harbour"}]}))
    text = report.write_report(run, manifest=manifest).read_text("utf-8")
    assert "harbour" in text and "not stated" in text
    manifest.write_text(json.dumps({"scenes": ["harbour"]}))
    with pytest.raises(UserError, match="other.json: expected 'scenes'"):
        report.write_report(run, manifest=manifest)


@pytest.mark.parametrize(
    ("summary", "message"),
    [
        (None, "holds no summary.json"),
        ("{", "not valid JSON"),
        ("{}", "list of stages"),
        ('{"stages": [{"steps": 1}]}', "list of stages with names"),
    ],
)
def test_damaged_summary_is_a_user_error(tmp_path, summary, message):
    if summary is not None:
        (tmp_path / "summary.json").write_text(summary)
    with pytest.raises(UserError, match=message):
        report.write_report(tmp_path)
    assert not (tmp_path / "report").exists()


def test_long_texts_are_cut():
    assert report.clean("a" * 1000, 10) == "a" * 10 + " …"
    assert report.clean("a" * 10, 10) == "a" * 10
    assert report.clean(3.5) == "3.5"


def test_rollouts_are_sampled_over_the_whole_stage(tmp_path):
    path = tmp_path / "grpo.jsonl"
    lines = [
        {"step": step, "example_id": example, "text": f"{step}", "reward": float(reward)}
        for step in range(1, 12)
        for example in (9, 4, 7)
        for reward in (2, 5, 1, 3, 4)
    ]
    write_json_lines(path, [{"step": "odd"}, *lines, {"step": 99, "text": "no reward"}])
    groups = run_files.sample_rollouts(path)
    assert [group.step for group in groups] == [1, 6, 11]
    for group in groups:
        assert {answer["example_id"] for answer in group.answers} == {4}
        assert [answer["reward"] for answer in group.answers] == [5, 3, 1]
    assert run_files.sample_rollouts(tmp_path / "missing.jsonl") == []


def test_series_hold_numbers_only(tmp_path):
    lines = [
        {"stage": "sft", "step": 1, "loss": 1.5, "note": "text", "flag": True, "nan": None},
        {"stage": "sft", "step": 2, "loss": 1},
        {"step": 3, "loss": 0.0},
    ]
    write_json_lines(tmp_path / "metrics.jsonl", lines)
    series = run_files.read_series(tmp_path / "metrics.jsonl")
    assert series == {"sft": {"loss": [(1, 1.5), (2, 1.0)]}}


def test_every_tested_source_is_shown_apart(tmp_path):
    run = make_run(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    for stage in summary["stages"][1:]:
        path = predictions_path(run, stage["name"])
        for source in ("photographs", "drawings"):
            copy = predictions_path(run, f"{stage['name']}.{source}")
            copy.write_bytes(path.read_bytes())
        named = {"dataset": "jaxqa_demo", "choice_accuracy": 0.625, "n": 8, "n_failed": 1}
        found = {"photographs": stage["evaluation"], "drawings": stage["evaluation"]}
        stage["evaluations"] = found | {"pairs": named}
        path.unlink()
    (run / "summary.json").write_text(json.dumps(summary))
    text = report.write_report(run).read_text("utf-8")
    for part in ("sft, photographs", "grpo, drawings", "choice accuracy", "0.625", "1 of 8"):
        assert part in text
    srcc = f"{stage['evaluation']['srcc']:.2f}".replace("-", "−")
    for source in ("photographs", "drawings"):
        assert f"<b>{srcc}</b> for {source} ({srcc} after sft)" in " ".join(text.split())
    assert "for pairs" not in text  # named, not scored
    assert "The best value of each source in a column is bold." in text
    assert text.count("Each dot is one of") == 4 and text.count("<h2>Test pictures</h2>") == 2
