"""The door `analyse`: every analysis on small answers, and bad input."""

import csv
import json
from pathlib import Path

import pytest
import tiny_model
from distill_fixtures import CLIP, draw_params
from PIL import Image

from jaxqa.cli import analyse
from jaxqa.cli.main import DOORS
from jaxqa.evaluation.answer_store import AnswerStore
from jaxqa.evaluation.evaluator import Prediction
from jaxqa.models.clip import weights as clip_weights
from jaxqa.models.clip.tokenizer import build_demo_tokenizer

SETTINGS = {"prompt": "concise", "max_pixels": 4704}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Answers of two models to six images, under the folder that `evaluate` would use."""
    place = tmp_path_factory.mktemp("analyse")
    for shift, name in enumerate(("one", "two")):
        store = AnswerStore(place / "table.answers" / name, "jaxqa_demo:test", SETTINGS)
        for number in range(6):
            picture = place / "images" / f"{number}.png"
            if not picture.exists():
                tiny_model.write_image(picture, (56, 56), number)
            score = 1.5 + 0.5 * number + 0.25 * shift
            store.append(
                Prediction(
                    example_id=number,
                    image=str(picture),
                    dataset="jaxqa_demo",
                    label=1.0 + 0.6 * number,
                    score=score,
                    text=f"<think> sharp </think><answer> {score:.2f} </answer>",
                )
            )
        store.close()
    return place


def answers(place, name):
    return str(place / "table.answers" / name / "jaxqa_demo.test.jsonl")


def run(*arguments):
    assert analyse.main([str(argument) for argument in arguments]) == 0


def check(path, *, rows):
    with Image.open(path) as image:
        assert len(image.convert("RGB").getcolors(2**24)) > 20
    assert len(list(csv.DictReader(path.with_suffix(".csv").read_text().splitlines()))) == rows


def test_histograms(place, tmp_path):
    output = tmp_path / "histograms.png"
    files = [answers(place, "one"), f"other={answers(place, 'two')}"]
    run("histograms", "--answers", *files, "--output", output, "--bins=10")
    check(output, rows=20)
    assert "other" in output.with_suffix(".csv").read_text()


def test_rewards_and_size(tmp_path):
    run("rewards", "--output", tmp_path / "rewards.png")
    check(tmp_path / "rewards.png", rows=5 * 401)
    table = tmp_path / "table.csv"
    table.write_text(
        "protocol,model,dataset,metric,value\nraw,a,average,srcc,0.7\nraw,b,average,srcc,0.8\n"
    )
    output = tmp_path / "size.png"
    run("size", "--table", table, "--output", output, "--parameters", "a=3e8", "b=7e9")
    check(output, rows=2)


def test_compare(place, tmp_path):
    output = tmp_path / "compare.html"
    files = [answers(place, name) for name in ("one", "two")]
    run("compare", "--answers", *files, "--output", output, "--limit=3")
    page = output.read_text()
    assert page.count("data:image/jpeg;base64,") == 3 and page.count("sharp") == 6
    assert "http" not in page.replace("http-equiv", "")
    assert len(json.loads(output.with_suffix(".json").read_text())) == 3


def test_analyses_that_ask_a_model(place, tmp_path):
    model = tiny_model.make_model(place / "models" / "tiny")
    given = ["--answers", answers(place, "one"), "--model", model]
    run("entropy", *given, "--image=3.png", "--output", tmp_path / "entropy.png")
    rows = list(csv.DictReader((tmp_path / "entropy.csv").read_text().splitlines()))
    assert "".join(r["token"] for r in rows) == "<think> sharp </think><answer> 3.00 </answer>"
    run("attention", *given, "--limit=2", "--output", tmp_path / "attention.png")
    rows = list(csv.DictReader((tmp_path / "attention.csv").read_text().splitlines()))
    layers = {row["layer"] for row in rows}
    for layer in layers:
        total = sum(float(row["mean"]) for row in rows if row["layer"] == layer)
        assert total == pytest.approx(1.0, abs=1e-5)
    run("domains", *given, "--output", tmp_path / "domains.png")
    check(tmp_path / "domains.png", rows=6)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny CLIP of random weights with its tokenizer."""
    place = tmp_path_factory.mktemp("encoder")
    tokenizer = build_demo_tokenizer(["sharp blur noise soft clear dull words"] * 2, CLIP)
    (place / "tokenizer").mkdir()
    tokenizer.save(place / "tokenizer")
    source = place / "tokenizer"
    clip_weights.save_pretrained(place / "clip", CLIP, draw_params(CLIP), source_dir=source)
    return place / "clip"


def test_rationales_in_clips_text_space(place, encoder, tmp_path):
    """One model always writes the same word; the other has words of its own for each image."""
    words = iter(["dull", "dull noise", "dull noise blur", "soft", "clear", "clear sharp"])
    varied = tmp_path / "varied.jsonl"
    lines = Path(answers(place, "two")).read_text().splitlines()
    changed = [line.replace("sharp", next(words)) for line in lines[1:]]
    varied.write_text("\n".join([lines[0], *changed]) + "\n")
    output = tmp_path / "texts.png"
    files = [answers(place, "one"), f"base={varied}"]
    run("texts", "--answers", *files, "--encoder", encoder, "--output", output)
    check(output, rows=12)
    rows = list(csv.DictReader(output.with_suffix(".csv").read_text().splitlines()))
    assert [row["words"] for row in rows] == ["1"] * 6 + ["1", "2", "3", "1", "1", "2"]
    run("texts", "--answers", files[0], "--encoder", encoder, "--output", output)  # all the same
    check(output, rows=6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["histograms", "--answers", "gone.jsonl"], "gone.jsonl: no such file"),
        (["histograms", "--answers", "{one}", "{one}", "{one}"], "is given twice"),
        (["entropy", "--answers", "{one}", "--model=nowhere", "--image=nine"], "contains 'nine'"),
        (["entropy", "--answers", "{one}", "--model=nowhere"], "nowhere"),
        (["attention", "--answers", "{one}", "{two}", "--model=nowhere"], "expected one file"),
        (["attention", "--answers", "{bare}", "--model=nowhere"], "give --prompt=NAME"),
        (["texts", "--answers", "{one}", "--encoder=nowhere"], "nowhere"),
        (["compare", "--answers", "{one}"], "ends in .html"),
        (["size", "--table=gone.csv", "--parameters", "a=1"], "cannot read gone.csv"),
        (["size", "--table={one}", "--parameters", "a=1"], "expected a CSV table"),
        (["size", "--table={one}", "--parameters", "a=many"], "expected NAME=NUMBER"),
        (["rewards", "--output=picture.jpg"], "ends in .png, .svg, .pdf"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(place, tmp_path, capsys, arguments, message):
    bare = tmp_path / "bare.jsonl"
    first = json.loads(Path(answers(place, "one")).read_text().splitlines()[1])
    bare.write_text(json.dumps(first) + "\n")
    names = {"one": answers(place, "one"), "two": answers(place, "two"), "bare": bare}
    output = [] if arguments[0] == "rewards" else ["--output", str(tmp_path / "picture.png")]
    assert analyse.main([a.format(**names) for a in arguments] + output) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_the_command_knows_the_door():
    assert "analyse" in DOORS
