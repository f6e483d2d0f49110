"""The door `evaluate` on a distilled scorer, beside what it says itself."""

import json
from pathlib import Path

import pytest
import tiny_model
from distill_fixtures import make_artifact

import jaxqa
from jaxqa.cli import evaluate
from jaxqa.distill.artifact import save_artifact
from jaxqa.sharding import MeshConfig


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("distilled")
    save_artifact(place / "rali", make_artifact(clip=True))
    rows = ["dist_img,ref_img,dmos,var"]
    for number in range(1, 6):
        name = f"I03_01_{number:02d}.png"
        tiny_model.write_image(place / "kadid10k" / "images" / name, (40, 48), number)
        rows.append(f"{name},I03.png,{number},0.1")
    (place / "kadid10k" / "dmos.csv").write_text("\n".join(rows) + "\n")
    return place


def flags(place, *more):
    output = place / "table.md"
    start = [f"--model={place / 'rali'}", "--dataset=kadid10k:tatar", f"--data_root={place}"]
    return [*start, f"--output={output}", "--batch_size=8", "--resamples=20", *more]


def test_its_scores_stand_in_the_table(place):
    (place / "kadid10k" / "images" / "I03_01_02.png").write_bytes(b"broken")
    assert evaluate.main(flags(place)) == 0
    path = place / "table.answers" / "rali" / "kadid10k.tatar.jsonl"
    answers = [json.loads(line) for line in path.read_text().splitlines()][1:]
    assert len(answers) == 5
    scorer = jaxqa.load(place / "rali", mesh=MeshConfig(data=-1), block_rows=8)
    images = [Path(answer["image"]) for answer in answers]
    expected = [score.score for score in scorer.score(images)]
    assert [answer["score"] for answer in answers] == expected
    assert sum(score is None for score in expected) == 1
    text = (place / "table.md").read_text()
    assert "- rali: prompt no prompt (quality)" in text and "(4 + 1)" in text


def test_there_is_nothing_to_decode(place, capsys):
    assert evaluate.main(flags(place, "--decoding=expected")) == 2
    assert "leave --decoding out" in capsys.readouterr().err
