"""The door `evaluate` against an OpenAI-compatible endpoint on loopback."""

import base64
import json
import os
import signal
import time

import numpy as np
import pytest
import tiny_model
from chat_server import Answer, serving

from jaxqa.cli import evaluate
from jaxqa.cli.errors import FAILED_STATUS, STOPPED_STATUS

SCORES = {"I03_01_01.png": 1.5, "I03_01_02.png": 3.25, "I03_01_03.png": 2.0, "I03_01_04.png": 4.5}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "kadid10k"
    rows = ["dist_img,ref_img,dmos,var"]
    for number, name in enumerate(SCORES, start=1):
        tiny_model.write_image(root / "images" / name, (56, 56), number)
        rows.append(f"{name},I03.png,{number},0.1")
    (root / "dmos.csv").write_text("\n".join(rows) + "\n")
    return root.parent


def sent_image(body):
    """Name of the image in a request."""
    (url,) = [p["image_url"]["url"] for p in body["messages"][-1]["content"] if "image_url" in p]
    return base64.b64decode(url.partition("base64,")[2])


@pytest.fixture(scope="module")
def names(data):
    return {p.read_bytes(): p.name for p in (data / "kadid10k" / "images").iterdir()}


def run(server, data, output, *more):
    flags = [f"--model=GPT=openai:{server.url}#gpt", "--dataset=kadid10k:tatar", *more]
    flags += [f"--data_root={data}", f"--output={output}", "--resamples=20"]
    return evaluate.main(flags)


def answers_of(output):
    path = output.with_suffix(".answers") / "GPT" / "kadid10k.tatar.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()][1:]


def test_an_endpoint_is_asked_each_image_once(data, names, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")

    def reply(body):
        score = SCORES[names[sent_image(body)]]
        return Answer(f'<think> x </think><answer> {{"rating": {score}}} </answer>')

    output = tmp_path / "table.md"
    with serving(reply) as server:
        assert run(server, data, output) == 0
        assert run(server, data, output) == 0
        assert len(server.bodies) == 4
        body = server.bodies[0]
        assert server.headers[0]["authorization"] == "Bearer secret"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("gpt", 0.0, 512)
    assert "overall rating on the quality" in json.dumps(body["messages"])
    found = {a["image"].rpartition("/")[2]: a["score"] for a in answers_of(output)}
    assert found == SCORES
    plcc = np.corrcoef(list(SCORES.values()), range(1, 5))[0, 1]
    assert f"| GPT | {plcc:.3f} / 0.800 (4 + 0) |" in output.read_text()


def test_bad_answers_fail_and_lost_ones_are_asked_again(data, names, tmp_path, capsys):
    def reply(body):
        name = names[sent_image(body)]
        if name == "I03_01_02.png":
            return Answer("no idea")
        if name == "I03_01_04.png" and lost:
            return Answer(raw=b"this is no completion")
        return Answer(f"<answer>{SCORES[name]}</answer>")

    lost, output = True, tmp_path / "table.md"
    with serving(reply) as server:
        assert run(server, data, output, "--retries=0") == FAILED_STATUS
        assert "1 answers are still missing: the endpoint failed" in capsys.readouterr().err
        assert not output.exists()
        lost = False
        asked = len(server.bodies)
        assert run(server, data, output) == 0
        assert len(server.bodies) == asked + 1
    text = output.read_text()
    assert "(3 + 1)" in text and "no <answer>...</answer>" in text


def test_a_stopped_evaluation_does_not_look_complete(data, names, tmp_path, capfd):
    def reply(body):
        if not stopped:
            stopped.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)  # so that the others are not through before the signal is seen
        return Answer(f"<answer>{SCORES[names[sent_image(body)]]}</answer>")

    stopped, output = [], tmp_path / "table.md"
    with serving(reply) as server:
        assert run(server, data, output) == STOPPED_STATUS
        assert "run the same command again to go on" in capfd.readouterr().err
        assert not output.exists()
        assert run(server, data, output) == 0
    assert "(4 + 0)" in output.read_text()


def test_mean_takes_several_samples_unless_told_otherwise(data, names, tmp_path):
    with serving(lambda body: Answer("<answer>3.5</answer>")) as server:
        assert run(server, data, tmp_path / "table.csv", "--decoding=mean") == 0
        assert {body["temperature"] for body in server.bodies} == {1.0}
    assert {len(answer["samples"]) for answer in answers_of(tmp_path / "table.csv")} == {5}


def test_several_samples_are_averaged(data, names, tmp_path):
    numbers = iter([1.0, 2.0, 3.0, 4.0] * 4)
    with serving(lambda body: Answer(f"<answer>{next(numbers)}</answer>")) as server:
        more = ["--decoding=mean", "--samples=2", "--temperature=0.7"]
        assert run(server, data, tmp_path / "table.csv", *more) == 0
        assert len(server.bodies) == 8 and {b["temperature"] for b in server.bodies} == {0.7}
    for answer in answers_of(tmp_path / "table.csv"):
        assert len(answer["samples"]) == 2
        assert answer["score"] == sum(answer["samples"]) / 2
