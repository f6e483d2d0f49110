import dataclasses
import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from jaxqa.data import demo, demo_rationales, registry, scenes
from jaxqa.errors import UserError

SMALL = demo.DemoDataConfig(
    crop_size=56,
    photograph_crops=7,
    auxiliary_crops=2,
    procedural_crops=3,
    validation_crops=1,
    test_crops=2,
    train_distortions=4,
    wallpapers=False,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return demo.make_demo_dataset(tmp_path_factory.mktemp("data") / "demo", SMALL, seed=5)


def _files(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_kadid_reader_reads_it(root):
    examples = {part: registry.read_dataset("jaxqa_demo", root, part)
                for part in ("train", "validation", "test")}  # fmt: skip
    assert {part: len(rows) for part, rows in examples.items()} == {
        "train": 12 * 4,
        "validation": 40,
        "test": 80,
    }
    for rows in examples.values():
        for example in rows:
            assert 1 <= example.score <= 5 and example.metadata["label_std"] >= 0
    assert all(example.rationale for example in examples["train"])
    assert not any(example.rationale for example in examples["test"])
    with Image.open(examples["test"][0].image) as image:
        assert image.size == (56, 56) and image.mode == "RGB"


def test_splits_never_share_a_scene(root):
    manifest = json.loads((root / "manifest.json").read_text())
    split_of_scene = {scene["name"]: scene["split"] for scene in manifest["scenes"]}
    lines = (root / "splits.csv").read_text().splitlines()[1:]
    seen = defaultdict(set)
    for line in lines:
        reference, split = line.split(",")
        scene = manifest["references"][reference.removesuffix(".png")]
        seen[split].add(scene)
        assert split_of_scene.get(scene, "train") == split
    assert not seen["train"] & (seen["validation"] | seen["test"])
    assert not seen["validation"] & seen["test"]
    photographs = {s.name for s in scenes.packaged_scenes() if s.kind == "photograph"}
    assert seen["test"] | seen["validation"] <= photographs


def test_manifest_says_what_the_labels_are(root):
    manifest = json.loads((root / "manifest.json").read_text())
    assert "synthetic" in manifest["labels"]
    assert all(scene["licence"] for scene in manifest["scenes"])
    config = json.loads(json.dumps(dataclasses.asdict(SMALL)))  # tuples become lists
    assert manifest["config"] == config and manifest["seed"] == 5


def test_equal_seeds_make_equal_bytes_and_others_do_not(root, tmp_path):
    again = demo.make_demo_dataset(tmp_path / "again", SMALL, seed=5, num_threads=3)
    assert _files(again) == _files(root)
    other = demo.make_demo_dataset(tmp_path / "other", SMALL, seed=6)
    assert _files(other)["I0001.png"] != _files(root)["I0001.png"]


def test_a_complete_data_set_is_left_alone(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert demo.make_demo_dataset(root, SMALL, seed=5) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_other_content_is_never_overwritten(root, tmp_path):
    before = _files(root)
    with pytest.raises(UserError, match="something other"):
        demo.make_demo_dataset(root, SMALL, seed=6)
    assert _files(root) == before
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="delete it or choose another folder"):
        demo.make_demo_dataset(tmp_path, SMALL, seed=5)


def test_an_interrupted_run_leaves_nothing_under_the_name(root, tmp_path, monkeypatch):
    target = tmp_path / "demo"

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "_write_tables", interrupt)
        with pytest.raises(KeyboardInterrupt):
            demo.make_demo_dataset(target, SMALL, seed=5)
    assert not list(tmp_path.iterdir())
    (tmp_path / "demo.partial" / "images").mkdir(parents=True)  # what a killed run leaves
    (tmp_path / "demo.partial" / "images" / "I0001.png").write_bytes(b"half")
    demo.make_demo_dataset(target, SMALL, seed=5)
    assert _files(target) == _files(root)
    assert not (tmp_path / "demo.partial").exists()


def test_runs_that_share_a_folder_make_it_once(root, tmp_path, monkeypatch):
    target, writes, write = tmp_path / "demo", [], demo._write
    monkeypatch.setattr(demo, "_write", lambda *args, **kw: writes.append(1) or write(*args, **kw))
    with ThreadPoolExecutor(3) as pool:  # a lock parts threads as it parts processes
        list(pool.map(lambda _: demo.make_demo_dataset(target, SMALL, seed=5), range(3)))
    assert len(writes) == 1
    assert _files(target) == _files(root)


def test_folds_test_other_scenes(root, tmp_path):
    other = demo.make_demo_dataset(tmp_path / "fold", dataclasses.replace(SMALL, fold=1), seed=5)
    tested = []
    for folder in (root, other):
        manifest = json.loads((folder / "manifest.json").read_text())
        tested.append({s["name"] for s in manifest["scenes"] if s["split"] == "test"})
    assert tested[0] and tested[1] and not tested[0] & tested[1]


@pytest.mark.parametrize(
    "change",
    [
        {"crop_size": 100},
        {"crop_size": 0},
        {"train_distortions": 0},
        {"train_distortions": 41},
        {"test_crops": 0},
        {"procedural_crops": -1},
    ],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(UserError, match=next(iter(change))):
        dataclasses.replace(SMALL, **change)


def test_too_few_photographs_are_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(scenes, "packaged_scenes", lambda: [])
    with pytest.raises(UserError, match="found 0 photographs"):
        demo.make_demo_dataset(tmp_path / "demo", SMALL, seed=0)


def test_rationales_name_artefact_strength_and_verdict(root):
    closed = set(demo_rationales.all_rationales())
    examples = registry.read_dataset("jaxqa_demo", root, "train")
    for example in examples:
        assert example.rationale in closed
        assert 6 <= len(example.rationale.split()) <= 8
        level, name = example.metadata["distortion_level"], example.metadata["distortion"]
        assert example.rationale.startswith(demo_rationales.STRENGTHS[level - 1])
        assert any(words in example.rationale for words in demo_rationales.ARTEFACTS[name])
    assert set(demo_rationales.ARTEFACTS) == set(registry.dataset_info("jaxqa_demo").distortions)


@pytest.mark.parametrize(
    "score, verdict", [(1.0, "bad"), (2.4, "poor"), (3.1, "fair"), (4.9, "excellent")]
)
def test_verdict_follows_the_score(score, verdict):
    assert demo_rationales.rationale("noise", 3, score=score).endswith(f"{verdict}.")
