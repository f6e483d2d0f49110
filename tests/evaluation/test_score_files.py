"""Other tools' scores: formats, and how images are found in them."""

import dataclasses
import json
from pathlib import Path

import pytest

from jaxqa.data.records import Example
from jaxqa.data.registry import dataset_info
from jaxqa.errors import UserError
from jaxqa.evaluation.score_files import match_scores, read_elements, read_scores

INFO = dataset_info("kadid10k")


def example(number, path):
    return Example(
        example_id=number, image=Path(path), score=2.0, dataset="kadid10k", task="quality"
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "path,score\na/x.png,1.5\nb.png,-2\n"),
        ("a.csv", "\ufeffscore; image\n1.5; a/x.png\n-2; b.png\n"),
        ("a.tsv", "IMG_PATH\tPred\textra\na/x.png\t1.5\t0\nb.png\t-2\t0\nc.png\tnan\t0\n"),
        ("a.jsonl", '{"path": "a/x.png", "score": 1.5}\n\n{"image": "b.png", "score": -2}\n'),
        ("a.json", json.dumps([{"img_path": "a/x.png", "pred_score": "1.5"},
                               {"img_path": "b.png", "pred_score": -2, "score": None}][:1])),
    ],
)  # fmt: skip
def test_formats(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    expected = {"a/x.png": 1.5, "b.png": -2.0}
    if name == "a.json":
        del expected["b.png"]
    assert read_scores([tmp_path / name]) == expected


def test_several_files_make_one_tool(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text(f"path,score\n{name}.png,1\n")
    assert read_scores([tmp_path / "a.csv", tmp_path / "b.csv"]) == {"a.png": 1.0, "b.png": 1.0}


def test_images_are_found_by_path_or_by_as_much_of_its_end_as_is_unique():
    scores = {"/data/one/x.png": 1.0, "two/x.png": 2.0, "y.png": 3.0, r"three\z.png": 4.0}
    examples = [
        example(1, "/data/one/x.png"),
        example(2, "/elsewhere/two/x.png"),
        example(3, "/elsewhere/three/y.png"),
        example(4, "/elsewhere/three/z.png"),
        example(5, "/elsewhere/four/x.png"),  # x.png alone has two scores
        example(6, "/elsewhere/w.png"),
    ]
    found = match_scores(scores, examples, INFO, source="tool.csv")
    assert [p.score for p in found] == [1.0, 2.0, 3.0, 4.0, None, None]
    assert found[5].error == "tool.csv has no score for it"


def test_a_tool_that_runs_the_other_way_is_turned_round():
    scores = {"x.png": 3.0, "y.png": 7.0, "z.png": 12.0}
    examples = [example(1, "x.png"), example(2, "y.png"), example(3, "z.png")]
    found = match_scores(scores, examples, INFO, source="niqe.csv", higher_is_better=False)
    assert [one.score for one in found] == [-3.0, -7.0, -12.0]
    assert [one.answer for one in found] == [12.0, 8.0, 3.0]  # what TATAR's protocol reads


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "{}\n", "found the columns"),
        ("a.jsonl", "not json\n", "not JSON lines"),
        ("a.jsonl", "[1, 2]\n", "expected one JSON object per line"),
        ("a.csv", "", "no row holds a new score"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_scores([tmp_path / name])
    assert name in str(caught.value)


def test_scores_of_elements_meet_their_ratings(tmp_path):
    path = tmp_path / "result.json"
    rows = [
        {
            "img_path": "SD/1.png",
            "total_score": 3.5,
            "element_score": {"cat (animal)": 0.8, "x": 0},
        },
        {"img_path": "SD/2.png", "total_score": 2},
    ]
    path.write_text(json.dumps(rows))
    truths = {"cat (animal)": [1, 0, 1], "red (color)": [0], "x": None}
    examples = [
        dataclasses.replace(example(number, f"/data/SD/{number}.png"), metadata=metadata)
        for number, metadata in ((1, {"element_score": truths}), (2, {"element_score": truths}))
    ]
    first, second = match_scores(
        read_scores([path]), examples, INFO, source="x", elements=read_elements([path])
    )
    assert (first.score, second.score) == (3.5, 2)
    assert first.elements == {"cat (animal)": (0.8, 2 / 3)} and second.elements is None


@pytest.mark.parametrize("bad", [[1], {"cat": 1.5}, {"cat": "no"}, "cat"])
def test_elements_that_are_no_numbers_from_0_to_1(tmp_path, bad):
    path = tmp_path / "result.jsonl"
    path.write_text(json.dumps({"img_path": "1.png", "total_score": 3, "element_score": bad}))
    with pytest.raises(UserError, match="row 1: element_score is .* numbers from 0 to 1"):
        read_elements([path])
