"""Tables of the user's: our columns, and the forms that the field passes around."""

import io

import numpy as np
import pyarrow as pa
import pytest
from layout_files import write_csv, write_images, write_json, write_json_lines, write_lines
from PIL import Image
from pyarrow import parquet

from jaxqa.data import registry
from jaxqa.errors import UserError


def _read(path, options="range=1..5", split="all", root=None):
    name = f"file:{path}#{options}" if options else f"file:{path}"
    return registry.read_dataset(name, root or path.parent, split)


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path, ["a.png", "b.png", "sub/c.jpg"])
    return tmp_path


def test_our_columns_in_csv(folder):
    header = ["image", "score", "split", "prompt", "task", "rationale", "reference"]
    rows = [
        ["a.png", 1.5, "train", "", "", "soft", "r1"],
        ["sub/c.jpg", 4.5, "test", "a cat", "alignment", "", "r2"],
    ]
    path = write_csv(folder / "labels.csv", header, rows)
    train, test = _read(path)
    assert (train.score, train.rationale, train.task) == (1.5, "soft", "quality")
    assert train.prompt is None
    assert (test.image, test.prompt, test.task) == (folder / "sub/c.jpg", "a cat", "alignment")
    assert _read(path, split="test")[0].example_id == test.example_id
    assert train.dataset == f"file:{path}#range=1..5"
    info = registry.dataset_info(train.dataset)
    assert info.label_range == (1.0, 5.0) and info.higher_is_better
    lower = registry.dataset_info(f"file:{path}#range=-1..1,direction=lower,task=aesthetics")
    assert (lower.label_range, lower.higher_is_better, lower.task) == ((-1, 1), False, "aesthetics")


def test_images_may_lie_below_the_data_root_or_at_absolute_paths(folder, tmp_path_factory):
    lists = tmp_path_factory.mktemp("lists")
    path = write_csv(
        lists / "l.csv", ["image", "score"], [["sub/c.jpg", 2], [str(folder / "a.png"), 3]]
    )
    first, second = _read(path, root=folder)
    assert (first.image, second.image) == (folder / "sub/c.jpg", folder / "a.png")
    relative = write_csv(folder / "l.csv", ["image", "score"], [["a.png", 2]]).name
    (example,) = registry.read_dataset(f"file:{relative}#range=1..5", folder, "all")
    assert example.score == 2


_ROWS = [{"image": "a.png", "gt_score": "2.5"}, {"img_path": "b.png", "gt_score": 3}]


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_simple_lists(folder, ending):
    write = write_json if ending == "json" else write_json_lines
    examples = _read(write(folder / f"l.{ending}", _ROWS))
    assert [(e.image.name, e.score) for e in examples] == [("a.png", 2.5), ("b.png", 3.0)]


def test_deqa_row(folder):
    row = {"id": "a.png->77.38", "image": "KONIQ/images/a.png", "gt_score": 77.38, "std": 13.9}
    row |= {"gt_score_norm": 4.47, "level_probs": [0.5, 0.5, 0, 0, 0], "std_norm": 0.6}
    row["conversations"] = [{"from": "gpt", "value": "The quality of the image is good."}]
    (example,) = _read(write_json(folder / "l.json", [row]), "as=koniq10k")
    assert (example.dataset, example.score) == ("koniq10k", 77.38)
    assert example.metadata["label_std"] == 13.9


def test_visualquality_r1_lines_and_columns(folder):
    talk = [{"from": "human", "value": "You are"}, {"from": "gpt", "value": 4.63}]
    row = {"id": 1, "dataset_name": "KADID-10K", "image": ["a.png"], "conversations": talk}
    (example,) = _read(write_json_lines(folder / "l.jsonl", [row]))
    assert (example.image.name, example.score) == ("a.png", 4.63)
    lines = write_lines(folder / "l.txt", ["a.png 2.5 0.7", "ref.png b.png 3.5", "a2.png b 1 1"])
    write_images(folder, ["b.PNG"])
    with pytest.raises(UserError, match="1 of 3 image files"):
        _read(lines)
    lines.write_text("a.png 2.5 0.7\nref.png b.png 3.5\n")
    first, second = _read(lines)
    assert (first.score, first.metadata["label_std"]) == (2.5, 0.7)
    assert (second.score, second.metadata["reference"]) == (3.5, "ref")


def test_aes_r1_messages(folder):
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "0.25"}]
    path = write_json(folder / "l.json", [{"messages": talk, "images": "a.png"}])
    (example,) = _read(path, "range=0..1,task=aesthetics")
    assert (example.score, example.task) == (0.25, "aesthetics")


def test_pyiqa_meta_files_by_position(folder):
    header = ["img_name", "mos", "std", "ratio802_seed123_split_01", "official_split"]
    plain = write_csv(folder / "nr.csv", header, [["a.png", 3, 0.5, "train", "test"]])
    (example,) = _read(plain)
    assert (example.score, example.metadata["label_std"]) == (3, 0.5)
    assert len(_read(plain, split="ratio802_seed123_split_01/train")) == 1
    assert len(_read(plain, split="test")) == 1
    full = write_csv(folder / "fr.csv", ["ref", "dist", "dmos"], [["r.png", "a.png", 4]])
    (example,) = _read(full)
    assert (example.score, example.metadata["reference"]) == (4, "r")


def test_iqa_dataset_csv(folder):
    header = ["dis_img_path", "dis_type", "ref_img_path", "score"]
    (example,) = _read(write_csv(folder / "l.csv", header, [["a.png", "jpeg", "r.png", 2]]))
    assert (example.metadata["dis_type"], example.metadata["reference"]) == ("jpeg", "r")


def test_comparisons_and_degradations(folder):
    row = {"ref_image": "a.png", "ImageA": "b.png", "ImageB": "sub/c.jpg", "result": "Similar"}
    (pair,) = _read(write_json(folder / "p.json", [row]), "task=comparison")
    assert (pair.answer_labels, len(pair.extra_images)) == ({"choice": "Similar"}, 2)
    header = ["image", "distortion_class", "severity", "split"]
    rows = [["a.png", "noise", "slight", "train"]]
    (one,) = _read(write_csv(folder / "d.csv", header, rows), "task=degradation", split="train")
    assert one.answer_labels == {"distortion_class": "noise", "severity": "slight"}


def test_parquet_with_paths_or_images(folder):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(buffer, "PNG")
    image = {"bytes": buffer.getvalue(), "path": "inside.png"}
    for name, cell in (("paths", "a.png"), ("images", image)):
        rows = [{"image": cell, "score": 2.0, "split": "test"}]
        parquet.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    assert _read(folder / "paths.parquet")[0].image == folder / "a.png"
    (example,) = _read(folder / "images.parquet", split="test")
    assert example.image == buffer.getvalue() and example.score == 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "range is None; declare the lowest and highest possible score"),
        ("range=5..1", r"range is '5\.\.1'; declare"),
        ("range=1-5", "range is '1-5'; declare"),
        ("range=1..5,task=beauty", "task is 'beauty', expected one of quality, aesthetics"),
        ("range=1..5,direction=up", "direction is 'up', expected one of higher, lower"),
        ("rang=1..5", "unknown option 'rang=1..5'; expected range"),
        ("as=koniq", "expected as=NAME alone, NAME one of koniq10k"),
        ("as=koniq10k,range=1..5", "expected as=NAME alone"),
    ],
)
def test_options_are_checked(folder, options, message):
    path = write_csv(folder / "l.csv", ["image", "score"], [["a.png", 2]])
    with pytest.raises(UserError, match=message):
        _read(path, options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image;score\na.png;2\n", "it seems to be separated by semicolons"),
        ("image\tscore\na.png\t2\n", "it seems to be separated by tabs"),
        ("image,quality\na.png,good\n", "missing columns image, score; found image, quality"),
        ("image,score\na.png,7\n", "1 of 1 labels are outside .* range 1.0 to 5.0, first a.png"),
        ("image,score\na.png,2\na.png,3\n", "a.png is listed twice, first in"),
        ("image,score,score\na.png,2,3\n", "two columns are called score"),
        ("image,score\n,2\n", "image is '', expected text"),
        ("image,score\na.png,two\n", "score is 'two', expected a finite number"),
        ("image,score,split\na.png,2,dev\n", "split is 'dev', expected one of train"),
        ("image,score,task\na.png,2,beauty\n", "task is 'beauty', expected one of quality"),
        ("image,score\n", "is empty: its label file has no rows"),
        ("", "the file is empty; expected a line of columns: image, score"),
    ],
)
def test_tables_that_make_no_sense(folder, text, message):
    path = folder / "l.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        _read(path)


def test_other_encodings_and_endings(folder):
    latin = folder / "latin.csv"
    latin.write_bytes("image,score\nCafé.png,2\n".encode("latin-1"))
    with pytest.raises(UserError, match="expected UTF-8 text; byte 15 is none .Latin-1"):
        _read(latin)
    wide = folder / "wide.csv"
    wide.write_text("image,score\n", encoding="utf-16")
    with pytest.raises(UserError, match="UTF-16"):
        _read(wide)
    (folder / "l.yaml").touch()
    with pytest.raises(UserError, match="expected a table that ends in .csv, .tsv, .txt, .json"):
        _read(folder / "l.yaml")
    with pytest.raises(UserError, match=r"found neither .*none\.csv nor"):
        _read(folder / "none.csv")


def test_selection_of_a_split():
    assert registry.parse_selection("koniq10k") == ("koniq10k", "")
    assert registry.parse_selection("koniq10k:official") == ("koniq10k", "official")
    assert registry.parse_selection("file:a/b.csv#range=1..5:qalign/test") == (
        "file:a/b.csv#range=1..5",
        "qalign/test",
    )
