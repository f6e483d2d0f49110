"""The layouts that are read."""

import json

import pytest
from judge_stand_in import write_picture

from jaxqa.errors import UserError
from jaxqa.selection.prompt_sets import read

LINE = {"tag": "counting", "include": [{"class": "bench", "count": 2}], "prompt": "two benches"}


def summary(sets):
    return [(s.key, s.prompt, [i.rpartition("/")[2] for i in s.images]) for s in sets]


def test_geneval_layout_keeps_its_numbers_and_metadata(tmp_path):
    for key in ("00007", "00002"):
        (tmp_path / key).mkdir()
        (tmp_path / key / "metadata.jsonl").write_text(json.dumps(LINE))
        write_picture(tmp_path / key / "grid.png", 1)
        for name in ("00001.png", "00000.png", ".00002.tmp.png"):
            write_picture(tmp_path / key / "samples" / name, 1)
    found = read(tmp_path, images=True)
    images = ["00000.png", "00001.png"]
    assert summary(found) == [("00002", "two benches", images), ("00007", "two benches", images)]
    assert found[0].metadata == LINE


def test_a_folder_for_each_prompt(tmp_path):
    write_picture(tmp_path / "a red cube" / "x.png", 1)
    write_picture(tmp_path / "b" / "1.jpg", 1)
    write_picture(tmp_path / "b" / "2.webp", 1)
    (tmp_path / "b" / "prompt.txt").write_text("a blue ball\n")
    (tmp_path / "empty").mkdir()
    assert summary(read(tmp_path, images=True)) == [
        ("00000", "a red cube", ["x.png"]),
        ("00001", "a blue ball", ["1.jpg", "2.webp"]),
    ]


@pytest.mark.parametrize("inside", ["", "samples"])
def test_compbench_layout(tmp_path, inside):
    for name in ("a cat_000003.png", "a cat_000001.png", "a big_dog_000000.png"):
        write_picture(tmp_path / inside / name, 1)
    assert summary(read(tmp_path, images=True)) == [
        ("00000", "a big_dog", ["a big_dog_000000.png"]),
        ("00001", "a cat", ["a cat_000001.png", "a cat_000003.png"]),
    ]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_table(tmp_path, suffix):
    write_picture(tmp_path / "pictures" / "1.png", 1)
    rows = [("a, cat", "pictures/1.png"), ("a dog", "/none.png"), ("a, cat", "pictures/2.png")]
    if suffix == "jsonl":
        text = "\n".join(json.dumps({"prompt": p, "path": i}) for p, i in rows)
    elif suffix == "tsv":
        text = "path\tprompt\n" + "\n".join(f"{i}\t{p}" for p, i in rows)
    else:
        text = "prompt,path\n" + "\n".join(f'"{p}",{i}' for p, i in rows)
    table = tmp_path / f"table.{suffix}"
    table.write_text(text)
    found = read(table, images=True)
    assert summary(found) == [
        ("00000", "a, cat", ["1.png", "2.png"]),
        ("00001", "a dog", ["none.png"]),
    ]
    assert found[0].images[0] == str(tmp_path / "pictures/1.png")


def test_prompts(tmp_path):
    plain = tmp_path / "p.txt"
    plain.write_text("a cat\n\n  a dog \na cat\n")
    expected = [("00000", "a cat", []), ("00001", "a dog", []), ("00002", "a cat", [])]
    assert summary(read(plain, images=False)) == expected
    lines = tmp_path / "evaluation_metadata.jsonl"
    lines.write_text(json.dumps(LINE) + "\n" + json.dumps({**LINE, "prompt": "x"}) + "\n")
    found = read(lines, images=False)
    assert [s.prompt for s in found] == ["two benches", "x"] and found[0].metadata == LINE


@pytest.mark.parametrize(
    ("name", "content", "images", "message"),
    [
        ("p.txt", "\n\n", False, "no prompt in it"),
        ("p.md", "x", False, "expected a folder, or a file that ends in .csv, .tsv or .jsonl"),
        ("p.csv", "text\nx\n", False, "missing columns prompt"),
        ("p.jsonl", '{"prompt": 3}\n', False, "line 1: expected an object with text prompt"),
        ("t.jsonl", '{"prompt": "x"}\n', True, "line 1: expected an object with text prompt"),
        ("t.csv", "prompt,path\n,a.png\n", True, "prompt"),
        ("none.csv", None, True, "cannot read the file"),
        ("", None, True, "no images in it"),
        ("", None, False, "is a folder; to make images, give a file of prompts"),
        ("00000/metadata.jsonl", "{}{}", True, "not valid JSON"),
        ("00000/metadata.jsonl", '{"a": 1}', True, "expected an object with text prompt"),
    ],
)  # fmt: skip
def test_what_cannot_be_read(tmp_path, name, content, images, message):
    path = tmp_path / name
    if content is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    source = tmp_path if "/" in name else path
    with pytest.raises(UserError, match=message):
        read(source, images=images)
