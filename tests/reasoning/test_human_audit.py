"""The sample for people: drawn by a seed, safe to show, read back whatever saved it."""

import csv
import re
import shutil
import subprocess

import pytest
from chat_server import png

from jaxqa.errors import UserError
from jaxqa.reasoning import human_audit
from jaxqa.train.json_lines import write_json_lines

LARGE = 2**63 - 1
"""An id that a spreadsheet would round."""


def record(number: int, *, kept: bool = True, text: str = "fine") -> dict:
    return {
        "example_id": LARGE - number,
        "dataset": "some",
        "task": "alignment",
        "image": f"/pictures/{number}.png",
        "prompt": "a <b>cat</b>",
        "score": None if number == 3 else 3.25,
        "unit_score": None if number == 3 else 0.5625,
        "kept": kept,
        "rationales": [text] if kept else [],
    }


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "texts.jsonl"
    text = '<script>{}</script>, "so"\nend'
    records = [record(n, kept=n % 2 == 1, text=text.format(n)) for n in range(20)]
    write_json_lines(path, records)
    images = {LARGE - n: png(n) for n in range(20) if n != 5}
    human_audit.write_sample(path, size=10, seed=0, images=images)
    return path


def rows_of(path):
    with human_audit.table_path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_only_what_was_kept_is_shown_and_nothing_of_it_is_code(written):
    page = human_audit.page_path(written).read_text()
    assert page.count("<article") == 10 and page.count("data:image/png;base64") == 9
    assert "no longer among" in page and "<script>3" not in page and "&lt;script&gt;3" in page
    assert "<b>cat" not in page and "label: <b>none</b> (some" in page and "@" not in page
    assert "label: <b>3.25</b>, 0.56 from 0 (worst) to 1 (best) (some, alignment)" in page
    rows = rows_of(written)
    assert {int(row["id"][3:], 16) for row in rows} == {LARGE - n for n in range(1, 20, 2)}
    assert all(f'data-id="{row["id"]}"' in page for row in rows)
    assert rows[0]["text"].endswith(', "so"\nend') and rows[0]["verdict"] == ""


def test_the_sample_is_drawn_by_the_seed_and_written_once(written, tmp_path):
    before = human_audit.table_path(written).read_bytes()
    human_audit.write_sample(written, size=3, seed=9, images={})
    assert human_audit.table_path(written).read_bytes() == before
    drawn = []
    for seed in (0, 0, 1):
        human_audit.table_path(written).unlink()
        human_audit.write_sample(written, size=4, seed=seed, images={})
        drawn.append([row["id"] for row in rows_of(written)])
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 4


def test_verdicts_of_the_page_and_of_spreadsheets(written):
    rows = rows_of(written)
    ids = [row["id"] for row in rows]
    table = human_audit.table_path(written)
    # As the page saves: three columns, everything quoted, Windows line ends.
    lines = ['"id","image","verdict"', f'"{ids[0]}","a ""b""","keep"', f'"{ids[1]}","c","drop"']
    table.write_bytes("\r\n".join([*lines, f'"{ids[2]}","d",""']).encode())
    found = human_audit.read_verdicts(written)
    assert found.asked == 3 and found.open == 1
    assert found.accepted == {int(ids[0][3:], 16)} and found.rejected == {int(ids[1][3:], 16)}
    table.write_bytes(b"\xef\xbb\xbf" + f"id,verdict\n{ids[0]}, DROP \n".encode())
    assert human_audit.read_verdicts(written).rejected == {int(ids[0][3:], 16)}
    table.write_text(f"id;verdict;remark\n{ids[0]};drop;no, not at all\n")
    assert human_audit.read_verdicts(written).rejected == {int(ids[0][3:], 16)}
    table.unlink()
    assert human_audit.read_verdicts(written) == human_audit.Verdicts()


@pytest.mark.parametrize(
    "content",
    [
        b"id,verdict\nid-1,good\n",
        b"id,judgement\nid-1,keep\n",
        b"verdict\nkeep\n",
        b"id,verdict\n9.22E+18,keep\n",
        b"\xff\xfe\x00",
        b'id,verdict\n"id-1\x00",keep',
    ],
)
def test_damaged_tables(written, content):
    human_audit.table_path(written).write_bytes(content)
    with pytest.raises(UserError, match="texts_human.csv"):
        human_audit.read_verdicts(written)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_page_saves_what_is_read_back(written, tmp_path):
    script = re.search(r"<script>(.*)</script>", human_audit.page_path(written).read_text(), re.S)
    path = tmp_path / "page.js"
    path.write_text(script.group(1))
    subprocess.run(["node", "--check", str(path)], check=True)
