"""The door `evaluate`, on a tiny model that answers and a tiny data set."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from scipy import stats

from jaxqa import sharding
from jaxqa.cli import evaluate
from jaxqa.cli.main import DOORS
from jaxqa.data.prompts import get_template
from jaxqa.scoring.manifest import Manifest, manifest_values

LAUNCHER = Path(__file__).parents[2] / "launchers" / "evaluate.py"
IMAGES = 7


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model.make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "kadid10k"
    rows = ["dist_img,ref_img,dmos,var"]
    for number in range(IMAGES):
        name = f"I03_01_{number + 1:02d}.png"
        tiny_model.write_image(root / "images" / name, (56, 56), number)
        rows.append(f"{name},I03.png,{1.5 + 0.4 * number:.2f},0.1")
    (root / "dmos.csv").write_text("\n".join(rows) + "\n")
    return root.parent


def flags(model, data, output, *more):
    return [
        f"--model={model}",
        "--dataset=kadid10k:tatar",
        f"--data_root={data}",
        f"--output={output}",
        "--prompt=concise",
        "--max_new_tokens=12",
        "--max_pixels=4704",
        "--batch_size=2",
        "--fsdp=2",
        "--workers=0",
        "--resamples=50",
        *more,
    ]


@pytest.fixture(scope="module", autouse=True)
def two_devices():
    """The tests' eight devices would make blocks of eight rows."""
    whole = sharding.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sharding,
            "make_mesh",
            lambda config: whole(dataclasses.replace(config, data=1)),
        )
        yield


def run(*arguments):
    assert evaluate.main(arguments) == 0


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(model, data, two_devices, tmp_path_factory):
    """The folder of a greedy evaluation."""
    place = tmp_path_factory.mktemp("greedy")
    outputs = [place / f"table{suffix}" for suffix in (".md", ".tex", ".csv", ".json")]
    run(*flags(model, data, outputs[0]), "--output", *map(str, outputs[1:]))
    return place


def test_answers_are_kept_and_the_table_agrees_with_scipy(finished):
    path = finished / "table.answers" / "tiny" / "kadid10k.tatar.jsonl"
    header, *answers = lines(path)
    assert header["settings"]["decoding"] == "greedy" and len(answers) == IMAGES
    for answer in answers:
        assert 1 <= answer["score"] <= 5 and answer["text"].startswith(" <answer> ")
        assert answer["answer"] == answer["score"] == float(answer["text"].split()[1])
        assert answer["log_prob"] < 0 and answer["samples"] is None
    scores, labels = np.array([(a["score"], a["label"]) for a in answers]).T
    rows = csv.DictReader((finished / "table.csv").read_text().splitlines())
    table = {row["metric"]: row for row in rows}
    for metric, truth in (("plcc", stats.pearsonr), ("srcc", stats.spearmanr)):
        assert float(table[metric]["value"]) == pytest.approx(truth(scores, labels).statistic)
    assert float(table["mae"]["value"]) == pytest.approx(np.mean(abs(scores - labels)))
    assert (table["plcc"]["scored"], table["plcc"]["failed"]) == ("7", "0")
    assert (
        "- tiny: prompt concise (quality); decoding: greedy" in (finished / "table.md").read_text()
    )
    assert r"\toprule" in (finished / "table.tex").read_text()
    assert json.loads((finished / "table.json").read_text())["failures"] == []


def test_running_again_asks_nothing(finished, model, data, monkeypatch):
    from jaxqa.scoring import loading

    monkeypatch.setattr(loading, "load_model", None)  # would fail if it were called
    before = (finished / "table.csv").read_text()
    run(*flags(model, data, finished / "table.csv"))
    assert (finished / "table.csv").read_text() == before


def test_a_cut_evaluation_goes_on_to_the_same_end(finished, model, data, tmp_path):
    whole = finished / "table.answers" / "tiny" / "kadid10k.tatar.jsonl"
    cut = tmp_path / "table.answers" / "tiny" / "kadid10k.tatar.jsonl"
    cut.parent.mkdir(parents=True)
    kept = whole.read_bytes().splitlines(keepends=True)
    cut.write_bytes(b"".join(kept[:4]) + kept[4][:20])  # as a kill leaves it
    run(*flags(model, data, tmp_path / "table.csv"))
    assert sorted(cut.read_bytes().splitlines()) == sorted(whole.read_bytes().splitlines())
    assert (tmp_path / "table.csv").read_text() == (finished / "table.csv").read_text()


def test_a_model_is_asked_as_it_was_trained(finished, model, data, tmp_path):
    own = shutil.copytree(model, tmp_path / "own")
    templates = {"quality": get_template("concise")}
    values = manifest_values(Manifest(templates=templates, max_new_tokens=12))
    (own / "jaxqa.json").write_text(json.dumps(values))
    arguments = flags(own, data, tmp_path / "table.csv")
    arguments.remove("--prompt=concise")
    arguments.remove("--max_new_tokens=12")
    run(*arguments)
    found = lines(tmp_path / "table.answers" / "own" / "kadid10k.tatar.jsonl")
    whole = lines(finished / "table.answers" / "tiny" / "kadid10k.tatar.jsonl")
    assert found[0]["settings"]["prompt"] == "concise" and found[1:] == whole[1:]


KILLED = """
import sys
sys.path.insert(0, {folder!r})
import interrupt, signal
interrupt.lie_in_wait(signal.SIGKILL, "open", "I03_01_06.png", 2)
from jaxqa.cli import evaluate
sys.exit(evaluate.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_to_the_same_end(finished, model, data, tmp_path):
    folder = str(Path(__file__).parents[1] / "stages")
    arguments = flags(model, data, tmp_path / "table.csv", "--fsdp=1", "--batch_size=1")
    command = [sys.executable, "-c", KILLED.format(folder=folder), *arguments]
    one_device = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    process = subprocess.run(command, check=False, env=one_device)
    assert process.returncode == -signal.SIGKILL
    answers = tmp_path / "table.answers" / "tiny" / "kadid10k.tatar.jsonl"
    assert 1 < len(lines(answers)) < 1 + IMAGES and not (tmp_path / "table.csv").exists()
    run(*arguments)
    whole = finished / "table.answers" / "tiny" / "kadid10k.tatar.jsonl"
    found = sorted((a["example_id"], a["text"], a["score"]) for a in lines(answers)[1:])
    assert found == sorted((a["example_id"], a["text"], a["score"]) for a in lines(whole)[1:])


def test_shards_together_make_the_whole(finished, model, data, tmp_path, capsys):
    output = tmp_path / "table.csv"
    run(*flags(model, data, output), "--shard=1/3")
    assert "5 answers are still missing" in capsys.readouterr().out and not output.exists()
    run(*flags(model, data, output), "--shard=0/3")
    run(*flags(model, data, output), "--shard=2/3")  # the last one sees that all is there
    assert output.read_text() == (finished / "table.csv").read_text()
    names = sorted(p.name for p in (tmp_path / "table.answers" / "tiny").iterdir())
    assert names == [f"kadid10k.tatar.{i}-of-3.jsonl" for i in range(3)]


def test_a_shard_sees_what_others_answered_while_it_ran(model, data, tmp_path, monkeypatch):
    """The last of several processes that run at one time writes the table."""
    whole = evaluate.answer_all

    def then_the_other_shard(*arguments, **more):
        whole(*arguments, **more)
        monkeypatch.setattr(evaluate, "answer_all", whole)
        run(*flags(model, data, tmp_path / "other.csv"), *shared, "--shard=1/2")

    shared = [f"--answers={tmp_path / 'answers'}"]
    monkeypatch.setattr(evaluate, "answer_all", then_the_other_shard)
    run(*flags(model, data, tmp_path / "table.csv"), *shared, "--shard=0/2")
    rows = (tmp_path / "table.csv").read_text()
    assert rows == (tmp_path / "other.csv").read_text() and ",7,0," in rows


@pytest.mark.slow
def test_mean_scores(model, data, tmp_path):
    run(*flags(model, data, tmp_path / "mean.csv"), "--decoding=mean", "--samples=3")
    _, *answers = lines(tmp_path / "mean.answers" / "tiny" / "kadid10k.tatar.jsonl")
    for answer in answers:
        assert answer["score"] == pytest.approx(np.mean(answer["samples"]))
        assert answer["spread"] == pytest.approx(np.std(answer["samples"]))
    assert any(len(set(answer["samples"])) > 1 for answer in answers)


def test_expected_scores(model, data, tmp_path):
    run(*flags(model, data, tmp_path / "expected.csv"), "--decoding=expected")
    _, *answers = lines(tmp_path / "expected.answers" / "tiny" / "kadid10k.tatar.jsonl")
    for answer in answers:
        assert 1 < answer["score"] < 5 and 0.99 < answer["mass"] <= 1.001
        assert answer["spread"] > 0
    assert any(abs(a["score"] - float(a["text"].split()[1])) > 0.005 for a in answers)


def write_scores(path, data, *, left_out=0, columns=("path", "score")):
    names = sorted(p.name for p in (data / "kadid10k" / "images").iterdir())
    rows = [f"elsewhere/images/{name},{10 - i}" for i, name in enumerate(names)][left_out:]
    path.write_text("\n".join([",".join(columns), *rows]) + "\n")
    return path


def test_other_tools_stand_in_the_same_table(finished, model, data, tmp_path):
    scores = write_scores(tmp_path / "niqe.csv", data, left_out=2)
    output = finished / "both.md"
    tool = [f"--scores=NIQE:{scores}", "--lower_is_better=NIQE"]
    answers = f"--answers={finished / 'table.answers'}"
    run(*flags(model, data, output), answers, *tool, "--protocol", "raw", "vqeg")
    text = output.read_text()
    assert "| NIQE | **1.000** / **1.000** (5 + 2) |" in text
    assert "Images without a score (2)" in text and "niqe.csv has no score for it" in text
    assert "### Paired tests on the same images" in text and "## Protocol `vqeg`" in text
    details = next(line for line in text.splitlines() if "| NIQE |" in line and "[" in line)
    assert details.split("|")[6].strip() == "–"  # RMSE: its scores have a scale of their own


def test_suites_bring_their_data_sets_and_protocol(finished, model, data, tmp_path, capsys):
    arguments = [f"--data_root={data}", "--prompt=concise", f"--output={tmp_path / 'suite.md'}"]
    arguments += [f"--scores=T:{write_scores(tmp_path / 'tool.csv', data)}", "--suite=tatar"]
    assert evaluate.main(arguments) == 2
    assert "koniq10k" in capsys.readouterr().err
    run(*arguments, "--skip_missing", "--resamples=0")
    text = (tmp_path / "suite.md").read_text()
    assert "## Protocol `tatar`" in text and "| model | kadid10k:tatar |" in text
    assert "left out, because they could not be read: koniq10k:tatar, spaq:tatar" in text
    assert capsys.readouterr().err.count("left out: ") == 7
    assert evaluate.main([*arguments[:-1], "--suite=ract", "--data_root=nowhere"]) == 2


def test_unreadable_images_and_answers_are_counted_and_listed(model, data, tmp_path, finished):
    root = tmp_path / "kadid10k"
    (root / "images").mkdir(parents=True)
    (root / "dmos.csv").write_text((data / "kadid10k" / "dmos.csv").read_text())
    for path in (data / "kadid10k" / "images").iterdir():
        (root / "images" / path.name).write_bytes(path.read_bytes())
    (root / "images" / "I03_01_02.png").write_bytes(b"broken")
    run(*flags(model, tmp_path, tmp_path / "table.md"))
    text = (tmp_path / "table.md").read_text()
    assert "(6 + 1)" in text and "I03_01_02.png" in text
    run(*flags(model, tmp_path, tmp_path / "unit.md"), "--prompt=concise_unit")
    text = (tmp_path / "unit.md").read_text()
    assert "| tiny | – / – (0 + 7) |" in text and "0 scored images" in text
    assert "is outside 0..1" in text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--dataset=koniq"], "unknown data set 'koniq'"),
        (["--dataset=kadid10k:qualign"], "unknown split 'qualign' of kadid10k"),
        (["--dataset=spaq:qalign"], "spaq"),
        (["--model=nowhere"], "nowhere"),
        (["--model=other={model}", "--model=other={model}"], "two models are called other"),
        (["--prompt=alignment=q_insight", "--prompt=x"], "unknown prompt 'x'"),
        (["--prompt=taste=concise"], "unknown task 'taste'"),
        (["--output=table.xlsx"], "ends in .md, .tex, .csv, .json"),
        (["--scores=NIQE"], "expected NAME:FILE"),
        (["--scores=NIQE:nowhere.csv"], "nowhere.csv"),
        (["--scores=tiny:x.csv"], "a model is called tiny too"),
        (["--lower_is_better=NIQE"], "no --scores=NIQE:FILE"),
        (["--decoding=mean", "--temperature=0"], "would all be the same"),
        (["--samples=3"], "greedy decoding writes one answer"),
        (["--shard=3/3"], "expected I/N with I from 0 to N - 1"),
        (["--batch_size=3"], "--batch_size is 3; expected a multiple of the 2 devices"),
        (["--max_pixels=0"], "max_pixels"),
        (["--max_new_tokens=5000"], "lower max_new_tokens"),
        (["--max_new_tokens=0"], "max_new_tokens is 0"),
        (["--limit=-1"], "--limit is -1"),
        (["--model=openai:localhost#gpt"], "expected openai:URL#MODEL"),
        (["--model=openai:http://localhost:1/v1#gpt", "--decoding=expected"], "no probabilities"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(model, data, tmp_path, capsys, more, message):
    more = [text.format(model=model) for text in more]
    assert evaluate.main(flags(model, data, tmp_path / "table.md", *more)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err and "Traceback" not in captured.err
    assert not (tmp_path / "table.md").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name;value\na.png;3\n", "found the columns name, value"),
        ("path,score\nother.png,3\n", "none of the 7 images of kadid10k is in it"),
        ("path,score\nI03_01_01.png,\n", "no row holds a new score"),
        ("path,score\nI03_01_01.png,1\nI03_01_01.png,2\n", "has the scores 1 and 2"),
        ("\xff", "none"),
    ],
)
def test_bad_scores_files(data, tmp_path, capsys, content, message):
    path = tmp_path / "tool.csv"
    path.write_bytes(content.encode("latin-1"))
    arguments = [f"--scores=T:{path}", "--dataset=kadid10k:tatar", f"--data_root={data}"]
    assert evaluate.main([*arguments, f"--output={tmp_path / 'table.md'}"]) == 2
    expected = "not UTF-8" if message == "none" else message
    assert expected in capsys.readouterr().err


def test_answers_of_other_settings_are_not_mixed_in(finished, model, data, tmp_path, capsys):
    arguments = flags(model, data, finished / "table.csv", "--max_new_tokens=11")
    assert evaluate.main(arguments) == 2
    error = capsys.readouterr().err
    assert "made with other settings (max_new_tokens 12, now 11)" in error
    other = shutil.copytree(model, tmp_path / "tiny")
    (weights,) = other.glob("*.safetensors")
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert evaluate.main(flags(other, data, finished / "table.csv")) == 2
    assert "weights" in capsys.readouterr().err


def test_nothing_to_do_is_said(model, data, tmp_path, capsys):
    output = [f"--data_root={data}", f"--output={tmp_path / 'table.md'}"]
    assert evaluate.main([f"--model={model}", *output]) == 2
    assert "give --dataset=NAME[:SPLIT] or --suite=NAME" in capsys.readouterr().err
    assert evaluate.main(["--dataset=kadid10k:tatar", *output]) == 2
    assert "give --model=PATH or --scores=NAME:FILE" in capsys.readouterr().err


def test_the_launcher_and_the_command_open_the_door():
    assert "evaluate" in DOORS
    result = subprocess.run(
        [sys.executable, str(LAUNCHER), "--help"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0
    for flag in ("--scores", "--suite", "--protocol", "--decoding", "--shard", "--output"):
        assert flag in result.stdout
