"""The doors `best-of-n` and `tabulate`, on instant judges."""

import csv
import html.parser
import json
import signal
import subprocess
import sys
from pathlib import Path

import best_of_n_stand_in
import pytest
from judge_stand_in import write_picture

from jaxqa.cli import best_of_n, tabulate
from jaxqa.cli.main import DOORS
from jaxqa.cli.main import main as installed
from jaxqa.serving import loading

HERE = Path(__file__).parent
PAINT = f"{sys.executable} {HERE / 'paint.py'} {{prompt}} {{output}} {{seed}}"
METADATA = [
    {"tag": "colors", "include": [], "prompt": "a 40 bench"},
    {"tag": "counting", "include": [], "prompt": "two 60 | <b>cats</b>"},
]


@pytest.fixture(autouse=True)
def model(tmp_path, monkeypatch):
    for name in ("model", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text("1")
    monkeypatch.setattr(loading, "load", best_of_n_stand_in.load)
    return tmp_path / "model"


@pytest.fixture
def folder(tmp_path):
    for key, metadata in enumerate(METADATA):
        home = tmp_path / "in" / f"{key:05d}"
        for number in range(4):
            write_picture(home / "samples" / f"{number:05d}.png", (60 * number, 50, 20 * key))
        (home / "metadata.jsonl").write_text(json.dumps(metadata))
    return tmp_path / "in"


def run(model, *arguments, status=0):
    assert best_of_n.main([f"--model={model}", *map(str, arguments)]) == status


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Page(html.parser.HTMLParser):
    """Elements of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_a_folder(folder, model, tmp_path, capsys):
    other = tmp_path / "other"
    output = tmp_path / "out"
    arguments = ["--weights", "quality=1", "aesthetics=1", "--judge", f"third=quality@{other}"]
    run(model, folder, f"--output={output}", *arguments)
    captured = capsys.readouterr()
    assert "2 prompts, 8 candidates; 2 chosen; wrote" in captured.err
    assert "Gain over a random choice" in captured.out and "third" in captured.out
    chosen = rows(output / "chosen.csv")
    assert [row["candidate"] for row in chosen] == ["3", "3"]
    assert list(chosen[0])[:7] == [
        *("key", "prompt", "path", "combined", "quality", "aesthetics", "third")
    ]
    assert Path(chosen[1]["path"]).read_bytes() == (folder / "00001/samples/00003.png").read_bytes()
    found = {(r["selector"], r["n"], r["column"]) for r in rows(output / "study.csv")}
    assert ("combined", "", "third") in found and ("third", "4", "combined") in found
    page = Page((output / "index.html").read_text())
    assert page.tags.count("img") == 8 and "script" not in page.tags
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert "two 60 | <b>cats</b>" in page.text  # escaped
    assert not (output / "candidates").exists()  # nothing was made


def test_a_command_and_a_second_round(model, tmp_path, capsys):
    prompts = tmp_path / "evaluation_metadata.jsonl"
    prompts.write_text("".join(json.dumps(line) + "\n" for line in METADATA))
    output = tmp_path / "out"
    arguments = [f"--generator=command={PAINT}", "--n=3", "--reflect=2", "--image_seed=5"]
    run(model, prompts, f"--output={output}", *arguments)
    assert "The best image so far, mean over 2 prompts" in capsys.readouterr().out
    trace = [json.loads(line) for line in (output / "trace.jsonl").read_text().splitlines()]
    assert [(line["key"], line["round"], line["seed"]) for line in trace[:5]] == [
        *(("00000", 0, seed) for seed in (5, 6, 7)),
        *(("00000", number, 7 + number) for number in (1, 2)),
    ]
    assert "Correct these faults of the last image: " in trace[3]["instruction"]
    metadata = [
        json.loads((output / f"chosen/0000{n}/metadata.jsonl").read_text()) for n in range(2)
    ]
    assert metadata == METADATA
    page = Page((output / "index.html").read_text())
    assert page.text.count("No further round: all rounds made.") == 2


def test_a_callable_of_the_current_folder(model, tmp_path, monkeypatch):
    (tmp_path / "mine_to_call.py").write_text(
        "from PIL import Image\n"
        "def make(prompt, seed):\n"
        "    return Image.new('RGB', (8, 8), (9 * seed, 9, 9))\n"
    )
    (tmp_path / "prompts.txt").write_text("a cat\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    run(model, "prompts.txt", "--output=out", "--generator=callable=mine_to_call:make", "--n=2")
    assert rows(Path("out/chosen.csv"))[0]["candidate"] == "1"


def killed(arguments, after, status=0):
    """Run the door in a process that kills itself; how many rows it answered otherwise."""
    command = [sys.executable, str(HERE / "best_of_n_stand_in.py"), str(after)]
    result = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert result.returncode == (-signal.SIGKILL if after else status), result.stderr
    return 0 if after else int(result.stderr.split("answered ")[-1])


@pytest.mark.slow
def test_a_killed_run_goes_on(model, tmp_path):
    """By a real `kill -9`, in the first round's scores and in the second round's."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a 40 bench\na 60 cat\n")
    log = tmp_path / "log"
    arguments = [
        prompts,
        f"--model={model}",
        f"--generator=command={PAINT} {log}",
        "--n=4",
        "--reflect=1",
        "--weights",
        "quality",
        "alignment",
    ]
    whole = killed([*arguments, f"--output={tmp_path / 'whole'}"], 0)
    assert whole == 2 * (4 + 1) * 2
    made = log.read_text().splitlines()
    log.unlink()
    output = tmp_path / "cut"
    killed([*arguments, f"--output={output}"], 6)
    killed([*arguments, f"--output={output}", "--resume"], 12)
    assert killed([*arguments, f"--output={output}", "--resume"], 0) < 10
    assert sorted(log.read_text().splitlines()) == sorted(made)  # none twice
    for name in ("study.csv", "study.md"):
        assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    again = killed([*arguments, f"--output={output}", "--resume"], 0)
    assert again == 0  # a finished run only writes


def test_failures_are_said(model, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a\nb\n")
    generator = "--generator=command=false {prompt} {output}"
    run(model, tmp_path / "prompts.txt", f"--output={tmp_path / 'out'}", generator, status=1)
    err = capsys.readouterr().err
    assert "2 prompts, 8 candidates, 8 without a score; 0 chosen" in err
    assert "no score: exit status 1" in err and "no image for prompt 00000, 00001" in err


def test_a_stop_request_keeps_what_is_done(folder, model, tmp_path, capsys, monkeypatch):
    from jaxqa.selection.journal import Journal

    def ask_to_stop(self, *arguments, add=Journal.add_score):
        add(self, *arguments)
        signal.raise_signal(signal.SIGTERM)

    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add_score", ask_to_stop)
        run(model, folder, f"--output={output}", status=130)
    assert "--resume to go on" in capsys.readouterr().err and not (output / "chosen").exists()
    run(model, folder, f"--output={output}", "--resume")
    assert len(rows(output / "chosen.csv")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "expected a folder, or a file that ends in"),
        (["{folder}", "--weights", "quality=x"], "expected TASK=WEIGHT"),
        (["{folder}", "--weights", "beauty=1"], "task is 'beauty'"),
        (["{folder}", "--weights", "quality=0"], "no judge has a weight"),
        (["{folder}", "--judge", "x"], "expected NAME=[TASK@]FOLDER"),
        (["{folder}", "--reflect=1"], "give a generator or an editor"),
        (["{folder}", "--reflect=1", "--template=better"], "lacks {rationale}"),
        (["{folder}", "--generator=magic=x"], "expected command=TEMPLATE"),
        (["{folder}", "--generator=command=x {prompt} {output}"], "is a folder; to make images"),
        (["{folder}", "--editor=command=x {prompt} {output}", "--reflect=1"], "lacks {image}"),
        (["{prompts}", "--generator=command=x {prompt}"], "lacks {output}"),
        (["{prompts}", "--generator=command=x {prompt} {output}", "--n=0"], "candidates is 0"),
        (["{prompts}", "--generator=callable=x"], "expected MODULE:FUNCTION"),
        (["{prompts}", "--generator=callable=x:y", "--images_per_call=2"], "only pipelines make"),
        (["{prompts}", "--generator=diffusers=x", "--jobs=2"], "give --images_per_call"),
        (["{prompts}", "--generator=callable=x:y"], "No module named 'x'"),
        (["{folder}", "--output={folder}"], "is not empty"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_input_is_one_line(folder, model, tmp_path, capsys, arguments, message):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n")
    places = {"folder": folder, "prompts": prompts}
    filled = [a if "{prompt}" in a else a.replace("{folder}", str(folder)) for a in arguments]
    filled[0] = arguments[0].format(**places)
    run(model, f"--output={tmp_path / 'out'}", *filled, status=2)
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_tabulating(tmp_path, capsys):
    results = [
        ("colors", "a", True), ("colors", "a", False), ("colors", "b", False),
        ("single_object", "c", True), ("made_up", "d", True),
    ]  # fmt: skip
    geneval = tmp_path / "results.jsonl"
    geneval.write_text(
        "".join(
            json.dumps({"tag": t, "prompt": p, "metadata": json.dumps({"p": p}), "correct": c})
            + "\n"
            for t, p, c in results
        )
    )
    compbench = tmp_path / "vqa_result.json"
    compbench.write_text(json.dumps([{"question_id": n, "answer": f"0.{n}0"} for n in (2, 4)]))
    arguments = [f"sana={geneval}", f"color={compbench}"]
    assert tabulate.main([*arguments, "--format=csv"]) == 0
    header, sana, color = csv.reader(capsys.readouterr().out.splitlines())
    assert header == [
        *("results", "overall", "single_object", "colors", "made_up", "correct prompts", "images")
    ]
    assert sana == [
        "sana",
        f"{(1 / 3 + 1 + 1) / 3:.4f}",
        "1.0000",
        "0.3333",
        "1.0000",
        "0.7500",
        "5",
    ]
    assert color == ["color", "0.3000", "–", "–", "–", "–", "2"]
    assert tabulate.main([*arguments, "--format=markdown"]) == 0
    assert "| sana | 0.7778 |" in capsys.readouterr().out
    assert tabulate.main([*arguments, "--format=json"]) == 0
    assert json.loads(capsys.readouterr().out)["sana"]["counts"]["colors"] == 3
    assert installed(["tabulate", str(geneval)]) == 0
    assert "single_object" in capsys.readouterr().out
    wrong = tmp_path / "wrong.jsonl"
    for text, message in [
        ('{"tag": "x", "prompt": "y", "correct": "yes"}\n', "expected true or false"),
        ('{"tag": "x"}\n', "expected an object with text tag, prompt"),
        ("", "no result in it"),
    ]:
        wrong.write_text(text)
        assert tabulate.main([str(wrong)]) == 2
        assert message in capsys.readouterr().err
    assert tabulate.main([str(geneval), str(geneval)]) == 2
    assert "write NAME=FILE" in capsys.readouterr().err


def test_the_launchers_open_the_doors():
    for name in ("best_of_n", "tabulate"):
        assert name.replace("_", "-") in DOORS
        launcher = HERE.parents[1] / "launchers" / f"{name}.py"
        command = [sys.executable, str(launcher), "--help"]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "usage: " in result.stdout
