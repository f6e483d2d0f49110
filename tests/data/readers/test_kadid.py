import json
import math

import pytest

from jaxqa.data.readers import kadid
from jaxqa.errors import UserError

_HEADER = "dist_img,ref_img,dmos,var"
_ROWS = (
    "I01_01_01.png,I01.png,4.57,0.496",
    "I01_10_05.png,I01.png,1.23,0",
    "I02_25_03.png,I02.png,3,0.25",
)


def _write(root, *, rows=_ROWS, header=_HEADER, splits=None, rationales=None):
    (root / "dmos.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    if splits is not None:
        (root / "splits.csv").write_text(splits)
    if rationales is not None:
        lines = [line if isinstance(line, str) else json.dumps(line) for line in rationales]
        (root / "rationales.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _read(root):
    return kadid.read(root, kadid.LAYOUT).rows


def test_rows_carry_what_the_files_say(tmp_path):
    _write(tmp_path)
    first, second, third = _read(tmp_path)
    assert (first.name, first.score, first.reference) == ("I01_01_01.png", 4.57, "I01")
    assert first.files == ("I01_01_01.png",)
    assert first.metadata["label_std"] == pytest.approx(math.sqrt(0.496))  # var is a variance
    assert (second.metadata["distortion_type"], second.metadata["distortion_level"]) == (10, 5)
    assert third.metadata["reference"] == "I02"
    assert third.parts == {} and third.rationale is None


def test_column_order_blank_lines_quotes_and_byte_order_mark_do_not_matter(tmp_path):
    rows = ['0.1,"I01.png", 2.5 ,I01_01_01.png,extra', "", '0,"I02.png",3,"I02_01_01.png",']
    _write(tmp_path, rows=rows, header="\ufeffvar,ref_img,dmos,dist_img,note")
    assert [(row.name, row.score) for row in _read(tmp_path)] == [
        ("I01_01_01.png", 2.5),
        ("I02_01_01.png", 3.0),
    ]


def test_windows_line_ends(tmp_path):
    (tmp_path / "dmos.csv").write_bytes("\r\n".join([_HEADER, *_ROWS, ""]).encode())
    assert len(_read(tmp_path)) == 3


def test_split_file_and_rationales_are_joined(tmp_path):
    rationale = {"dist_img": "I01_10_05.png", "rationale": "Blöcke überall\nund Ringe"}
    _write(tmp_path, splits="ref_img,split\nI01.png,train\nI02,test\n", rationales=[rationale])
    rows = _read(tmp_path)
    assert [row.parts["official"] for row in rows] == ["train", "train", "test"]
    assert [row.rationale for row in rows] == [None, rationale["rationale"], None]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["I01_01_01.png,I01.png,good,0"], "line 2: dmos is 'good', expected a finite number"),
        (["I01_01_01.png,I01.png,nan,0"], "dmos is 'nan'"),
        (["I01_01_01.png,I01.png,,0"], "dmos is ''"),
        ([_ROWS[0], "I01_01_02.png,I01.png,3,inf"], "line 3: var is 'inf'"),
        (["I01_01_01.png,I01.png,3,-0.5"], "expected a variance"),
        (["I01_01_01.png,I01.png,3"], "line 2: 3 values, expected 4"),
        (["I01_01_01.png,I01.png,3,0,9"], "5 values, expected 4"),
        (["I01.png,I01.png,3,0"], r"expected I<reference>_<type>_<level>\.png"),
        (["../I01_01_01.png,I01.png,3,0"], "expected I<reference>"),
        (["I/../../01_01_01.png,I01.png,3,0"], "expected I<reference>"),
        (["I01_01_01.png,I02.png,3,0"], "I01_01_01.png does not belong to ref_img I02.png"),
        ([_ROWS[0], _ROWS[0]], r"line 3: I01_01_01\.png is listed twice"),
        (['"I01_01_01.png,I01.png,3,0'], "not valid CSV"),
    ],
)
def test_bad_rows_are_located(tmp_path, rows, message):
    _write(tmp_path, rows=rows)
    with pytest.raises(UserError, match=rf"dmos\.csv.*{message}"):
        _read(tmp_path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("dist_img,ref_img,mos", "missing columns dmos, var; found dist_img, ref_img, mos"),
        ("", "missing columns dist_img, ref_img, dmos, var; found no header"),
    ],
)
def test_missing_columns_are_listed(tmp_path, header, message):
    _write(tmp_path, header=header)
    with pytest.raises(UserError, match=message):
        _read(tmp_path)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ("ref_img,split\nI01.png,train\n", "splits.csv: no split for I02"),
        ("ref_img,split\nI01.png,val\n", "line 2: split is 'val', expected one of train"),
        ("ref_img,split\nI01.png,train\nI01.png,test\n", "line 3: I01 is in train and test"),
        ("reference,split\n", "missing columns ref_img"),
    ],
)
def test_bad_split_files(tmp_path, splits, message):
    _write(tmp_path, splits=splits)
    with pytest.raises(UserError, match=message):
        _read(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 1: not valid JSON"),
        ("[" * 100_000, "line 1: not valid JSON"),
        ("[1]", "expected an object with text dist_img, rationale"),
        ({"dist_img": "I01_01_01.png", "rationale": 3}, "expected an object with text"),
        ({"dist_img": "I09_01_01.png", "rationale": "x"}, "1 images are not in dmos.csv"),
    ],
)
def test_bad_rationales(tmp_path, line, message):
    _write(tmp_path, rationales=[line])
    with pytest.raises(UserError, match=message):
        _read(tmp_path)


def test_second_rationale_for_one_image(tmp_path):
    line = {"dist_img": "I01_01_01.png", "rationale": "soft"}
    _write(tmp_path, rationales=[line, line])
    with pytest.raises(UserError, match="line 2: a second rationale for I01_01_01.png"):
        _read(tmp_path)


def test_label_file_that_is_no_text(tmp_path):
    (tmp_path / "dmos.csv").write_bytes(b"\xff\xfe\x00d")
    with pytest.raises(UserError, match=r"dmos\.csv: expected UTF-8 text; byte 0"):
        _read(tmp_path)
    (tmp_path / "dmos.csv").unlink()
    with pytest.raises(UserError, match=r"dmos\.csv: cannot read the file: No such file"):
        _read(tmp_path)
