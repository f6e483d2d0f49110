"""A run's export gives the same answers in `transformers`, through Hugging Face's own processor.

Also: what a finished run leaves behind, and that running it again changes nothing.
"""

import json

import numpy as np
import pytest
import tiny_run
from PIL import Image
from rich.console import Console

import jaxqa
from jaxqa.evaluation import evaluator
from jaxqa.sharding import MeshConfig
from jaxqa.stages import run
from jaxqa.stages.config import parse_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run without worker processes: its work directory and its resolved config."""
    place = tmp_path_factory.mktemp("export")
    config = tiny_run.get_config(str(tiny_run.write_dataset(place / "data")))
    config.data.workers = 0
    config.sft.steps = 25
    config.grpo.steps = 2
    parsed = parse_config(config)
    run.run(parsed, place / "run", Console(quiet=True))
    return place / "run", parsed


def hugging_face_answer(export, image):
    """Greedy text of the exported model, tokens and pixels made by transformers."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(export).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(export)
    processor = Qwen2VLImageProcessorPil.from_pretrained(export)
    pixels = processor(images=[image], return_tensors="pt")
    messages = [
        {"role": "system", "content": "Judge the picture."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question()}]},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    count = int(pixels["image_grid_thw"].prod()) // 4
    text = text.replace("<|image_pad|>", "<|image_pad|>" * count)
    ids = tokenizer(text, return_tensors="pt")
    image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    with torch.no_grad():
        answer = model.generate(
            **ids,
            mm_token_type_ids=(ids["input_ids"] == image_id).long(),
            **pixels,
            max_new_tokens=16,
            do_sample=False,
        )
    return tokenizer.decode(answer[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def question():
    from jaxqa.data.prompts import get_template

    return get_template("concise").question


def test_the_export_answers_alike_in_transformers(finished):
    workdir, _ = finished
    predictions = evaluator.read_predictions(workdir / "evaluations" / "grpo.jsonl")
    assert len({prediction.text for prediction in predictions}) >= 1 and predictions[0].text
    for prediction in predictions[:3]:
        image = Image.open(workdir / prediction.image)
        assert hugging_face_answer(workdir / "export", image) == prediction.text


def test_the_export_remembers_its_prompt_and_scores_alike(finished):
    workdir, _ = finished
    predictions = evaluator.read_predictions(workdir / "evaluations" / "grpo.jsonl")[:3]
    scorer = jaxqa.load(workdir / "export", mesh=MeshConfig(data=1), block_rows=2)
    assert scorer.tasks == ("quality",) and scorer.score_range() == (1.0, 5.0)
    found = scorer.score([workdir / prediction.image for prediction in predictions])
    assert [score.text for score in found] == [prediction.text for prediction in predictions]
    assert [score.score for score in found] == [prediction.score for prediction in predictions]


def test_summary_and_files(finished):
    workdir, config = finished
    summary = json.loads((workdir / "summary.json").read_text())
    assert [stage["name"] for stage in summary["stages"]] == list(config.stages)
    assert summary["seconds"] > 0
    for stage in summary["stages"]:
        assert stage["steps"] == config.sections[stage["name"]].steps and stage["seconds"] > 0
    warmup, sft, grpo = summary["stages"]
    assert warmup["evaluation"] is None and warmup["completions_per_second"] is None
    for stage in (sft, grpo):
        assert {"dataset", "plcc", "srcc", "mae", "n", "n_failed"} <= stage["evaluation"].keys()
        assert stage["evaluation"]["n"] == 6
        assert stage["completions_per_second"] > 0
    metrics = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in metrics] == [
        (name, step) for name in config.stages for step in range(1, config.sections[name].steps + 1)
    ]
    rollouts = (workdir / "rollouts" / "grpo.jsonl").read_text().splitlines()
    assert len(rollouts) == 2 * 4 * 3  # steps x prompts x completions
    assert {"text", "score", "reward", "label", "example_id"} <= json.loads(rollouts[0]).keys()
    assert (workdir / "report" / "index.html").stat().st_size > 1000
    assert list((workdir / "tensorboard").glob("grpo/events*"))


def test_the_first_update_has_ratio_one_and_sampler_and_trainer_agree(finished):
    workdir, _ = finished
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for line in (line for line in lines if line["stage"] == "grpo"):
        assert line["ratio"] == 1.0 and line["clip_fraction"] == 0.0
        assert 0 < line["sampler_gap"] < 1e-5 and line["sampler_gap"] <= line["sampler_gap_max"]
        assert line["sampler_gap_max"] < 1e-4 and abs(line["sampler_kl"]) < 1e-7


def test_running_again_changes_nothing(finished):
    workdir, config = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    summary = run.run(config, workdir, Console(quiet=True))
    after = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    assert before == after
    assert np.isfinite(summary["seconds"])
