"""The door `score`: inputs, files, resuming, filters, on an instant stand-in for the model."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import score_stand_in
from PIL import Image

from jaxqa.cli import compare, score, score_filter, score_output, score_screen
from jaxqa.cli.main import DOORS
from jaxqa.cli.score_inputs import Item, expand
from jaxqa.errors import UserError
from jaxqa.serving import loading

HERE = Path(__file__).parent
LEVELS = {"a.png": 0, "b.PNG": 51, "c d.jpg": 102, "sub/e.webp": 255, "sub/é.png": 153}


@pytest.fixture
def folder(tmp_path):
    for name, level in LEVELS.items():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8 + level % 2), (level,) * 3).save(path, lossless=True)
    (tmp_path / "images" / "notes.md").write_text("no image")
    (tmp_path / "images" / ".hidden.png").write_bytes(b"hidden")
    return tmp_path / "images"


@pytest.fixture(autouse=True)
def model(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("1")
    monkeypatch.setattr(loading, "load", score_stand_in.load)
    monkeypatch.setattr(score_stand_in.Mortal, "left", 0)
    return tmp_path / "model"


def run(model, *arguments, status=0):
    assert score.main([f"--model={model}", *map(str, arguments)]) == status


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def names(items):
    return [Path(item.path).name for item in items]


def test_a_folder_to_csv(folder, model, tmp_path, capsys):
    run(model, folder, f"--output={tmp_path / 'out.csv'}")
    rows = read(tmp_path / "out.csv")
    assert [row["path"] for row in rows] == [str(folder / name) for name in LEVELS]
    for row, level in zip(rows, LEVELS.values(), strict=True):
        assert float(row["score"]) == pytest.approx(1 + 4 * level / 255, abs=0.02)
        assert row["error"] == ""
    assert list(rows[0]) == ["path", "score", "error", "normalised"]
    assert not list(tmp_path.glob("*.partial"))
    captured = capsys.readouterr()
    assert "5 of 5 images have a score" in captured.err and captured.out == ""


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_every_format_holds_the_same(folder, model, tmp_path, suffix):
    (folder / "broken.png").write_bytes(b"nothing")
    output = tmp_path / f"out.{suffix}"
    run(model, folder, f"--output={output}", "--threshold=3", status=1)
    if suffix == "csv":
        rows = read(output)
        keep = {"True": True, "False": False, "": None}
        rows = [{**r, "score": float(r["score"] or "nan"), "keep": keep[r["keep"]]} for r in rows]
    elif suffix == "jsonl":
        rows = [json.loads(line) for line in output.read_text().splitlines()]
    else:
        from pyarrow import parquet

        rows = parquet.read_table(output).to_pylist()
    assert [Path(row["path"]).name for row in rows][:3] == ["a.png", "b.PNG", "broken.png"]
    broken = rows.pop(2)
    assert not broken["score"] or np.isnan(broken["score"])
    assert broken["error"] and broken["keep"] is None
    assert [row["keep"] for row in rows] == [False, False, False, True, True]
    assert all(row["keep"] is (row["score"] >= 3) for row in rows)


def test_inputs_of_every_kind(folder, tmp_path, monkeypatch):
    everything = expand([str(folder)], prompt=None)
    assert names(everything) == ["a.png", "b.PNG", "c d.jpg", "e.webp", "é.png"]
    assert names(expand([f"{folder}/*.png"], prompt=None)) == ["a.png"]
    assert names(expand([f"{folder}/**/*.png"], prompt=None)) == ["a.png", "é.png"]
    files = [str(folder / "sub/e.webp"), str(folder / "a.png"), str(folder)]
    assert names(expand(files, prompt=None)) == ["e.webp", "a.png", "b.PNG", "c d.jpg", "é.png"]
    plain = tmp_path / "list.txt"
    plain.write_text("# mine\n\nimages/a.png\n  images/c d.jpg \nmissing.png\n")
    found = [item.path for item in expand([str(plain)], prompt="x")]
    assert found == [str(folder / "a.png"), str(folder / "c d.jpg"), "missing.png"]
    table = tmp_path / "list.csv"
    table.write_text("id,image,caption\n1,images/a.png,a cat\n2,images/b.PNG,\n")
    assert expand([str(table)], prompt="else") == [
        Item(str(folder / "a.png"), "a cat"),
        Item(str(folder / "b.PNG"), "else"),
    ]
    lines = tmp_path / "list.jsonl"
    lines.write_text('{"path": "images/a.png", "prompt": "a dog"}\n')
    assert expand([str(lines), "https://example.org/x.png"], prompt=None) == [
        Item(str(folder / "a.png"), "a dog"),
        Item("https://example.org/x.png"),
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{folder}/a.png\n"))
    assert names(expand(["-"], prompt=None)) == ["a.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.png"], "none.png: no such file, folder or pattern"),
        (["*.none"], "*.none: no image in it"),
        (["{folder}", "--output=out.xlsx"], "expected a name that ends in .csv, .jsonl, .parquet"),
        (["{folder}", "--resume"], "--resume needs --output=FILE"),
        (["{folder}", "--resume", "--overwrite", "--output=x.csv"], "give one of them"),
        (["{folder}", "--keep=x"], "--keep and --drop need"),
        (["{folder}", "--top=0"], "--top is 0"),
        (["{folder}", "--quantile=2"], "--quantile is 2.0"),
        (["{folder}", "--threshold=nan"], "--threshold is nan"),
        (["{folder}", "--prompt=nobody"], "unknown prompt 'nobody'"),
        (["{folder}", "--task=alignment"], "give --text=TEXT"),
        (["{folder}", "--mode=fast"], "not this model"),
        (["{folder}", "--mode=mean", "--samples=0"], "num_samples"),
        (["{folder}", "--batch_size=0"], "batch_size is 0"),
        (["{folder}", "--fsdp=0"], "--fsdp and --tensor"),
        (["{bad}"], "not UTF-8"),
        (["{columns}"], "found id, score; expected a column path"),
        (["{lines}"], "expected one JSON object for each line"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(folder, model, tmp_path, capsys, arguments, message):
    files = {"bad": "bad.txt", "columns": "columns.csv", "lines": "lines.jsonl"}
    places = {name: tmp_path / file for name, file in files.items()}
    places["bad"].write_bytes(b"\xff\xfe\xff")
    places["columns"].write_text("id,score\n1,2\n")
    places["lines"].write_text("no json\n")
    arguments = [text.format(folder=folder, **places) for text in arguments]
    run(model, *arguments, status=2)
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err and captured.out == ""


def test_a_model_that_is_not_there(folder, capsys, monkeypatch):
    monkeypatch.undo()
    run("nowhere", folder, status=2)
    assert capsys.readouterr().err.startswith("error: model nowhere is not a directory")


def test_alignment_takes_texts(folder, model, tmp_path):
    table = tmp_path / "texts.csv"
    rows = ["path,prompt", "images/a.png,a cat", "images/a.png,a dog", "images/b.PNG,unusable"]
    table.write_text("\n".join(rows))
    output = tmp_path / "out.csv"
    run(model, table, "--task=alignment", f"--output={output}", status=1)
    found = [(Path(r["path"]).name, r["prompt"], bool(r["score"])) for r in read(output)]
    assert found == [
        ("a.png", "a cat", True),
        ("a.png", "a dog", True),
        ("b.PNG", "unusable", False),
    ]


def test_standard_output_and_screen(folder, model, capsys):
    run(model, folder, "--output=-", "--top=2")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["keep"] for row in rows] == ["False", "False", "False", "True", "True"]
    run(model, folder)
    out = capsys.readouterr().out
    assert out.count("\n") == 6 and "5.000" in out and "1.000" in out
    run(model, folder / "a.png")
    out = capsys.readouterr().out
    assert "1.00  of 1 to 5" in out and "a.png" in out and "quality, think" in out
    deep = folder / ("a_folder_with_a_long_name_" * 4)
    deep.mkdir()
    shutil.copy(folder / "a.png", deep / "a.png")
    run(model, deep / "a.png")
    assert "a.png" in capsys.readouterr().out  # the name is not what is left out
    (folder / "broken.png").write_bytes(b"")
    run(model, folder / "broken.png", status=1)
    assert "no score" in capsys.readouterr().out


def test_a_card_shows_the_distribution(capsys):
    values = np.linspace(1, 5, 401)
    weights = np.exp(-np.square(values - 4) * 8)
    row = {
        "path": "x.png",
        "score": 4.0,
        "normalised": 0.75,
        "spread": 0.25,
        "error": None,
        "rationale": "Sharp, a little noise.",
        "distribution": {
            "values": values.tolist(),
            "probabilities": (weights / weights.sum()).tolist(),
        },
    }
    from rich.console import Console

    Console(width=88).print(score_screen.card(row, (1.0, 5.0), question="quality"))
    out = capsys.readouterr().out
    assert "4.00  of 1 to 5   ±0.25" in out and "75%" in out and "Sharp, a little noise." in out
    bars = next(line for line in out.splitlines() if "█" in line)
    assert bars.index("█") == 3 + 29  # bins of 0.1 from 1; the highest end and begin at 4
    assert bars[3:].index("█") + bars[3:].rindex("█") == 29 + 30


def killed(arguments, after, *, status=None):
    """Run the door in a process that kills itself; its return code and how many it answered."""
    command = [sys.executable, str(HERE / "score_stand_in.py"), str(after), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == (-signal.SIGKILL if after else status), result.stderr
    return 0 if after else int(result.stderr.split("answered ")[-1])


def test_a_killed_run_goes_on_without_a_double_or_a_hole(model, tmp_path, capsys):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(40):
        level, size = number * 5, (8, 8 + number % 3)
        Image.new("RGB", size, (level, level, level)).save(folder / f"{number:02d}.png")
    (folder / "15.png").write_bytes(b"broken")
    whole, cut = tmp_path / "whole.csv", tmp_path / "cut.csv"
    run(model, folder, f"--output={whole}", status=1)
    arguments = [folder, f"--model={model}", f"--output={cut}"]
    killed(arguments, 10)
    partial = tmp_path / "cut.csv.partial"
    lines = partial.read_bytes().splitlines(keepends=True)
    assert 5 < len(lines) < 40 and not cut.exists()
    partial.write_bytes(b"".join(lines) + b'{"key": "half a li')  # as a full disk leaves it
    capsys.readouterr()
    run(model, *arguments, status=2)
    assert "give --resume to go on, or --overwrite" in capsys.readouterr().err
    answered = killed([*arguments, "--resume"], 0, status=1)
    scored = sum(b'"score": null' not in line for line in lines[1:])
    assert answered == 39 - scored  # none twice
    assert cut.read_bytes() == whole.read_bytes() and not partial.exists()


def test_finished_files(folder, model, tmp_path, capsys):
    for suffix in ("csv", "jsonl", "parquet"):
        output = f"--output={tmp_path / 'out'}.{suffix}"
        run(model, folder / "sub", output)
        run(model, folder / "sub", output, "--resume")
        assert "is finished: all 2 images are in it" in capsys.readouterr().out
        run(model, folder / "sub", output, status=2)
        assert "is there already" in capsys.readouterr().err
        run(model, folder, output, "--resume", status=2)
        assert "lacks 3 of these images" in capsys.readouterr().err
        run(model, folder, output, "--overwrite")
    assert len(read(tmp_path / "out.csv")) == 5


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_finished_file_keeps_its_failures(folder, model, tmp_path, capsys, suffix):
    broken = folder / "broken.png"
    broken.write_bytes(b"nothing")
    output = f"--output={tmp_path / 'out'}.{suffix}"
    run(model, folder, output, status=1)
    assert capsys.readouterr().err.count(str(broken)) == 1  # named once
    run(model, folder, output, "--resume", status=1)
    assert "all 6 images are in it, 1 without a score" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_finished_file_is_filtered_anew(folder, model, tmp_path, capsys, suffix):
    (folder / "broken.png").write_bytes(b"nothing")
    fresh, later = (tmp_path / f"{name}.{suffix}" for name in ("fresh", "later"))
    lists = [f"--{name}={tmp_path / name}" for name in ("keep", "drop")]
    run(model, folder, f"--output={fresh}", "--top=2", *lists, status=1)
    expected = {name: (tmp_path / name).read_bytes() for name in ("keep", "drop")}
    run(model, folder, f"--output={later}", "--threshold=4.9", status=1)  # other marks at first
    capsys.readouterr()
    run(model, folder, f"--output={later}", "--resume", "--top=2", *lists, status=1)
    assert "1 without a score, 2 kept" in capsys.readouterr().out
    assert later.read_bytes() == fresh.read_bytes()
    assert {name: (tmp_path / name).read_bytes() for name in expected} == expected
    before = later.read_bytes()
    run(model, folder, f"--output={later}", "--resume", status=1)  # no filter: left as it is
    assert later.read_bytes() == before
    run(model, folder / "sub", f"--output={later}", "--resume", "--top=1")
    assert [row["keep"] for row in score_output.read_rows(later)].count(None) == 4  # not asked for


def test_other_settings_are_not_mixed_in(folder, model, tmp_path, capsys):
    output = tmp_path / "out.csv"
    journal = tmp_path / "out.csv.partial"
    arguments = [f"--model={model}", str(folder), f"--output={output}"]

    class Stop(Exception):
        pass

    def stopping(self, key, row):
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score.Journal, "add", stopping)
        with pytest.raises(Stop):
            score.main(arguments)
    assert journal.exists()
    run(model, *arguments, "--resume", "--seed=3", status=2)
    assert "other settings (seed 0, now 3)" in capsys.readouterr().err
    (model / "weights").write_text("2")
    run(model, *arguments, "--resume", status=2)
    assert "(model" in capsys.readouterr().err
    run(model, *arguments, "--overwrite")
    assert len(read(output)) == 5


def test_a_stop_request_keeps_what_is_done(folder, model, tmp_path, capsys, monkeypatch):
    output = tmp_path / "out.csv"

    def ask_to_stop(self, key, row, add=score.Journal.add):
        add(self, key, row)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(score.Journal, "add", ask_to_stop)
        run(model, folder, f"--output={output}", status=130)
    assert "--resume to go on" in capsys.readouterr().err and not output.exists()
    run(model, folder, f"--output={output}", "--resume")
    assert len(read(output)) == 5


def test_lists_to_keep_and_to_drop(folder, model, tmp_path):
    (folder / "broken.png").write_bytes(b"")
    keep, drop = tmp_path / "keep.txt", tmp_path / "drop.txt"
    arguments = ["--quantile=0.5", f"--keep={keep}", f"--drop={drop}", "--output=-"]
    run(model, folder, *arguments, status=1)
    assert names(map(Item, keep.read_text().splitlines())) == ["c d.jpg", "e.webp", "é.png"]
    assert names(map(Item, drop.read_text().splitlines())) == ["a.png", "b.PNG"]
    assert names(expand([str(keep)], prompt=None)) == ["c d.jpg", "e.webp", "é.png"]


def test_names_of_all_kinds(folder, model, tmp_path, capsys):
    """Line breaks, and bytes that are no UTF-8; what a list of paths cannot name is refused."""
    odd = ["two\nlines.png", "caf\udce9.png", "日本 🌸.png"]
    for name in odd:
        shutil.copyfile(folder / "a.png", folder / name)
    for suffix in ("csv", "jsonl", "parquet"):
        output = tmp_path / f"out.{suffix}"
        run(model, folder, f"--output={output}")
        found = {Path(row["path"]).name for row in score_output.read_rows(output)}
        shown = {name if suffix == "jsonl" else name.replace("\udce9", "\\udce9") for name in odd}
        assert shown <= found and len(found) == len(LEVELS) + len(odd)
    capsys.readouterr()
    run(model, folder, "--top=1", f"--keep={tmp_path / 'keep.txt'}", status=2)
    assert "line breaks, blanks at the ends and #" in capsys.readouterr().err
    assert not (tmp_path / "keep.txt").exists()
    for name in odd[:2]:
        (folder / name).unlink()
    run(model, folder, "--top=8", f"--keep={tmp_path / 'keep.txt'}")
    assert len(expand([str(tmp_path / "keep.txt")], prompt=None)) == len(LEVELS) + 1


def test_a_folder_that_cannot_be_read_is_no_hole(folder, model, capsys, monkeypatch):
    real = os.scandir

    def scandir(place):
        if str(place).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(place))
        return real(place)

    monkeypatch.setattr(os, "scandir", scandir)
    run(model, folder, status=2)
    error = capsys.readouterr().err
    assert f"{folder / 'sub'}: cannot read the folder: Permission denied" in error


@pytest.mark.parametrize("seed", range(5))
def test_filters_against_sorting(seed):
    random = np.random.default_rng(seed)
    scores = [None if random.random() < 0.2 else float(s) for s in random.integers(0, 9, 30)]
    known = sorted((s for s in scores if s is not None), reverse=True)
    top = score_filter.keep(scores, top=7)
    assert sum(k is True for k in top) == 7
    kept = [s for s, k in zip(scores, top, strict=True) if k]
    assert sorted(kept, reverse=True) == known[:7]
    assert [s is None for s in scores] == [k is None for k in top]
    above = score_filter.keep(scores, threshold=4.0)
    assert above == [None if s is None else s >= 4 for s in scores]
    quarter = score_filter.keep(scores, quantile=0.75)
    limit = np.quantile(known, 0.75)
    assert quarter == [None if s is None else s >= limit for s in scores]


def test_filters_of_nothing():
    assert score_filter.keep([], top=3) == []
    assert score_filter.keep([None], quantile=0.5) == [None]
    with pytest.raises(UserError, match="--top is -1"):
        score_filter.check(-1, None, None)


def test_comparing_two(folder, model, capsys):
    arguments = [f"--model={model}", str(folder / "a.png"), str(folder / "sub" / "e.webp")]
    assert compare.main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("e.webp")
    assert compare.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["choice"], found["preference"], found["method"]) == ("Image B", 0.0, "scores")
    assert compare.main([f"--model={model}", str(folder / "a.png"), "none.png"]) == 1
    assert "no answer: none.png: cannot read" in capsys.readouterr().out
    assert compare.main([*arguments, "--task=alignment"]) == 2


def test_the_launchers_open_the_doors():
    for name in ("score", "compare"):
        assert name in DOORS
        launcher = HERE.parents[1] / "launchers" / f"{name}.py"
        command = [sys.executable, str(launcher), "--help"]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "--model" in result.stdout and "--allow_urls" in result.stdout
