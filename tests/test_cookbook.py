"""Every block of docs/cookbook.md, run in order in a folder with what the page talks about."""

import contextlib
import csv
import dataclasses
import json
import re
import shlex
import shutil
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "scoring"), str(HERE / "cli")]

import tiny_model  # noqa: E402

import jaxqa  # noqa: E402
from jaxqa import sharding  # noqa: E402
from jaxqa.cli.main import main as installed  # noqa: E402
from jaxqa.data.prompts import get_template  # noqa: E402
from jaxqa.scoring.manifest import Manifest, manifest_values  # noqa: E402
from jaxqa.serving import loading  # noqa: E402

PAGE = HERE.parent / "docs" / "cookbook.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTIONS = {
    title: FENCE.findall(body)
    for title, _, body in (
        part.partition("\n") for part in PAGE.read_text("utf-8").split("\n## ")[1:]
    )
}
SIDE = (56, 56)


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory):
    """The folder in which the recipes are run; models are loaded and compiled once."""
    place = tmp_path_factory.mktemp("kitchen")
    templates = {
        "quality": get_template("concise"),
        "alignment": get_template("concise_alignment"),
    }
    values = manifest_values(Manifest(templates=templates, max_new_tokens=12))
    tiny_model.make_model(place / "model")
    (place / "model" / "jaxqa.json").write_text(json.dumps(values))
    fill(place)
    loaded = {}
    load, make_mesh = loading.load, sharding.make_mesh

    def once(path, **options):
        key = Path(path).resolve()
        if key not in loaded:
            loaded[key] = load(path, **options)
        return loaded[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load", once)
        patch.setattr(  # the tests' eight devices would make blocks of 64 rows
            sharding, "make_mesh", lambda config: make_mesh(dataclasses.replace(config, data=1))
        )
        patch.chdir(place)
        yield place


def fill(place):
    for number, name in enumerate(["a", "b", "c", "d"]):
        tiny_model.write_image(place / "photos" / f"{name}.png", SIDE, number)
    (place / "photos" / "broken.png").write_bytes(b"no image")
    lines = [f"photos/{name}.png,a {name}" for name in "abcd"]
    (place / "captions.csv").write_text("\n".join(["path,prompt", *lines]) + "\n")
    labels = [f"photos/{name}.png,{1.5 + place}" for place, name in enumerate("abcd")]
    (place / "labels.csv").write_text("\n".join(["image,score", *labels]) + "\n")
    koniq = [{"image": f"photos/{n}.png", "gt_score": 20.0 + 9 * i} for i, n in enumerate("abcd")]
    (place / "test_koniq.json").write_text(json.dumps(koniq))
    (place / "prompts.txt").write_text("a cat\na dog\n")
    shutil.copy(HERE / "cli" / "paint.py", place / "make.py")
    for number, name in enumerate(["a cat/1", "a cat/2", "a dog/1", "a dog/2"]):
        tiny_model.write_image(place / "generated" / f"{name}.png", SIDE, 10 + number)
    for number in range(3):
        tiny_model.write_image(place / "before" / f"{number}.png", SIDE, 20 + number)
        tiny_model.write_image(place / "after" / f"{number}.png", SIDE, 30 + number)


def cook(title, statuses=()):
    """Run a section's blocks; its commands end with `statuses`, or all with 0."""
    expected = iter(statuses)
    names = {"__name__": "recipe"}
    with contextlib.ExitStack() as stack:
        for language, text in SECTIONS[title]:
            if language == "python":
                exec(compile(text, f"{PAGE.name}: {title}", "exec"), names)
                continue
            assert language == "sh"
            for command in text.replace("\\\n", " ").splitlines():
                words = shlex.split(command)
                assert words[0] == "jaxqa"
                if words[-1] == "&":
                    stack.enter_context(serving(words[1:-1]))
                else:
                    assert installed(words[1:]) == next(expected, 0), command
    return names


@contextlib.contextmanager
def serving(arguments):
    """A server in a thread of this process, where its model is compiled already."""
    from jaxqa.serving import heads  # needs the serve extra

    made = []

    class Remembered(heads.Draining):
        def __init__(self, config):
            super().__init__(config)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "Draining", Remembered)
        thread = threading.Thread(target=installed, args=(arguments,))
        thread.start()
        deadline = time.monotonic() + 300
        while not (made and made[0].started) and time.monotonic() < deadline:
            time.sleep(0.05)
        try:
            yield
        finally:
            for server in made:
                server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


def rows(path):
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_section_is_here():
    tests = {name for name in globals() if name.startswith("test_")}
    assert len(SECTIONS) == len(tests) - 1
    assert all(blocks for blocks in SECTIONS.values())


def test_score_a_folder(kitchen, capsys):
    cook("Score a folder", [1])  # one of the photos is broken
    found = rows("scores.csv")
    assert [row["path"] for row in found] == [
        f"photos/{n}.png" for n in ("a", "b", "broken", "c", "d")
    ]
    assert [bool(row["score"]) for row in found] == [True, True, False, True, True]
    assert f"photos/a.png {float(found[0]['score'])}" in capsys.readouterr().out


def test_filter_a_data_set(kitchen):
    cook("Filter a data set", [1, 1, 0])
    keep, drop = (Path(f"{name}.txt").read_text().splitlines() for name in ("keep", "drop"))
    scores = {row["path"]: float(row["score"]) for row in rows("all.csv") if row["score"]}
    limit = np.quantile(list(scores.values()), 0.75)
    assert set(keep) == {path for path, score in scores.items() if score >= limit}
    assert set(keep) | set(drop) == scores.keys() and not set(keep) & set(drop)
    shown = [json.loads(line) for line in Path("shown.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in shown] == ["a a", "a b", "a c", "a d"]


def test_reward_for_text_to_image_rl(kitchen):
    names = cook("Reward for text-to-image RL")
    rewards, info = names["rewards"], names["info"]
    both = [(q + 2 * a) / 3 for q, a in zip(rewards["quality"], rewards["alignment"], strict=True)]
    assert rewards["avg"] == pytest.approx(both) and info["errors"] == [None] * 4
    scores = names["scorer"].score(names["images"], task="quality")
    assert rewards["quality"] == [score.normalised for score in scores]


@pytest.mark.slow
def test_best_of_n(kitchen):
    cook("Best of N")
    chosen = rows("runs/best/chosen.csv")
    assert [row["prompt"] for row in chosen] == ["a cat", "a dog"]
    trace = [json.loads(line) for line in Path("runs/best/trace.jsonl").read_text().splitlines()]
    by_prompt = {p: [t["combined"] for t in trace if t["prompt"] == p] for p in ("a cat", "a dog")}
    assert [float(row["combined"]) for row in chosen] == [max(c) for c in by_prompt.values()]
    assert len(list(Path("runs/made/candidates").glob("*/samples/*.png"))) in (6, 7, 8)
    for run in ("made", "painted"):
        assert len(list(Path("runs", run, "chosen").glob("*/samples/00000.png"))) == 2


@pytest.mark.slow
def test_compare_two_checkpoints(kitchen, capsys):
    tiny_model.make_model(kitchen / "other", seed=2)
    shutil.copy("model/jaxqa.json", "other")
    cook("Compare two checkpoints")
    assert "before" in Path("table.md").read_text() and "after" in Path("table.md").read_text()
    assert re.search(r"[+-]\d\.\d{3} \[[+-]\d\.\d{3}, [+-]\d\.\d{3}\]", capsys.readouterr().out)


@pytest.mark.slow
def test_serve_and_ask(kitchen):
    with socket.socket() as other, contextlib.suppress(OSError):
        other.bind(("127.0.0.1", 8017))  # the page's port must be free
    names = cook("Serve a model and ask it with OpenAI's client")
    (score,) = jaxqa.load("model").score("photos/a.png")
    assert f"Final Score: {score.score:.4f}" in names["reply"].choices[0].message.content


@pytest.mark.slow
def test_evaluate_on_koniq(kitchen):
    cook("Evaluate on KonIQ-10k")
    assert {row["metric"] for row in rows("koniq.csv")} >= {"plcc", "srcc"}
