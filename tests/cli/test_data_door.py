"""`jaxqa data list | check | prepare`: what is printed, and the exit status."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxqa.cli import data
from jaxqa.data import registry


@pytest.fixture
def root(tmp_path):
    """TAD66K with three images, one of them broken."""
    home = tmp_path / "data" / "TAD66K"
    (home / "merge").mkdir(parents=True)
    (home / "TAD66K").mkdir()
    for part, count in (("train", 2), ("test", 1)):
        with (home / "merge" / f"{part}.csv").open("w", newline="") as file:
            rows = [[f"{part}{i}.png", 3 + i] for i in range(count)]
            csv.writer(file).writerows([["image", "score"], *rows])
        for name, value in rows:
            Image.fromarray(np.full((3, 4, 3), value, np.uint8)).save(home / "TAD66K" / name)
    (home / "TAD66K" / "train1.png").write_bytes(b"cut")
    return tmp_path / "data"


def test_list_names_every_data_set(capsys):
    assert data.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "task", "images", "range", "better", "splits"]
    assert [line.split()[0] for line in lines[1 : 1 + len(registry.DATASETS)]] == list(
        registry.DATASETS
    )
    koniq = next(line for line in lines if line.startswith("koniq10k "))
    assert koniq.split(maxsplit=5)[1:] == [
        *("quality", "10073", "1..100", "higher"),
        "official, qalign, deqa, tatar, visualquality_r1",
    ]


def test_list_of_one_says_all(capsys):
    assert data.main(["list", "csiq"]) == 0
    printed = capsys.readouterr().out
    for words in (
        "1 - DMOS, 0 to 1, higher is better",
        "Larson, Chandler",
        "csiq_label.txt",
        "866",
    ):
        assert words in printed


def test_check_reports_and_fails_where_something_is_wrong(root, capsys):
    assert data.main(["check", "tad66k", "--root", str(root)]) == data.PROBLEMS_STATUS
    printed = capsys.readouterr().out
    assert "tad66k: 3 labelled images" in printed and "split official: train 2, test 1" in printed
    assert "problem: 3 labelled images, the published data set has 66327" in printed
    assert "problem: 1 images cannot be read: " in printed and printed.endswith("problems\n")


def test_check_of_a_healthy_table_succeeds(root, capsys):
    table = root / "labels.csv"
    table.write_text("image,score\nTAD66K/TAD66K/train0.png,3\n")
    assert data.main(["check", f"file:{table}#range=1..10", "--root", str(root), "--quick"]) == 0
    assert capsys.readouterr().out.endswith("no problems found\n")


def test_prepare_says_what_it_did_and_what_it_left_out(root, tmp_path, capsys):
    arguments = ["prepare", "tad66k", "--root", str(root), "--output", str(tmp_path / "out")]
    assert data.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "train: 1 images\ntest: 1 images\n" in printed
    assert "left out train1.png: no image found" in printed
    assert data.main(arguments) == 0
    assert "train: 1 images, kept\n" in capsys.readouterr().out
    assert len(registry.read_dataset("tad66k", tmp_path / "out", "all")) == 2
    assert data.main(["prepare", "tad66k", "--root", str(root)]) == 0
    assert len(registry.read_dataset("tad66k", root / "prepared", "all")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "tad", "--root", "."], "error: unknown data set 'tad'; known are koniq10k"),
        (["check", "spaq", "--root", "nowhere"], "there is no folder nowhere"),
        (["list", "tad"], "error: unknown data set 'tad'"),
        (["prepare", "file:x.csv#range=1..5", "--root", "."], "give the table a name"),
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments, message, capsys):
    assert data.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1


def test_an_action_is_needed():
    with pytest.raises(SystemExit) as stopped:
        data.main([])
    assert stopped.value.code == 2


def test_launcher_and_command_open_the_same_door():
    launcher = Path(__file__).parents[2] / "launchers" / "data.py"
    for command in ([str(launcher)], ["-m", "jaxqa.cli.main", "data"]):
        done = subprocess.run(
            [sys.executable, *command, "list", "bid"], capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("bid (quality)\n")
