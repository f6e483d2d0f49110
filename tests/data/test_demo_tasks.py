import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from jaxqa.data import demo, demo_alignment, demo_tasks
from jaxqa.errors import UserError
from jaxqa.rewards.labels import CHOICES, DISTORTION_CLASSES, SEVERITIES

CONFIG = demo.DemoDataConfig(
    crop_size=56,
    photograph_crops=7,
    auxiliary_crops=0,
    procedural_crops=3,
    validation_crops=1,
    test_crops=2,
    train_distortions=7,
    wallpapers=False,
    tasks=("aesthetics", "degradation", "comparison", "alignment"),
    alignment_pictures=60,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return demo.make_demo_dataset(tmp_path_factory.mktemp("data") / "demo", CONFIG, seed=5)


def rows(root, task):
    return [json.loads(line) for line in (root / f"{task}.jsonl").read_text().splitlines()]


def quality(root):
    """Name -> (reference, score) of dmos.csv."""
    lines = (line.split(",") for line in (root / "dmos.csv").read_text().splitlines()[1:])
    return {name: (reference, float(score)) for name, reference, score, _ in lines}


def split_of(root):
    lines = (line.split(",") for line in (root / "splits.csv").read_text().splitlines()[1:])
    return dict(lines)


def test_every_picture_has_an_aesthetic_score_of_its_own_pixels(root):
    found = rows(root, "aesthetics")
    assert len(found) == len(quality(root)) + len(split_of(root))
    for row in found[::17]:
        pixels = np.asarray(Image.open(root / "images" / row["image"]))
        values = demo_tasks.attributes(pixels)
        assert row["gt_score"] == pytest.approx(demo_tasks.aesthetic_score(values), abs=1e-3)
        assert 0 <= row["gt_score"] <= 10
        assert row["rationale"].lower().startswith("light ")


def test_attributes_follow_what_they_are_named_after():
    rng = np.random.default_rng(0)
    picture = rng.integers(60, 196, (40, 40, 3), np.uint8)
    values = demo_tasks.attributes(picture)
    grey = np.repeat(picture.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
    assert demo_tasks.attributes(grey)["colours"] < 0.01 < values["colours"]
    dark = demo_tasks.attributes(picture // 4)
    assert dark["light"] < values["light"] and dark["contrast"] < values["contrast"]
    flat = demo_tasks.attributes(np.full((40, 40, 3), 128, np.uint8))
    assert flat["detail"] == flat["contrast"] == 0 and flat["light"] > 0.99


def test_degradation_says_how_a_picture_was_made(root):
    kinds = Counter()
    for row in rows(root, "degradation"):
        assert row["distortion_class"] in DISTORTION_CLASSES and row["severity"] in SEVERITIES
        parts = row["image"].removesuffix(".png").split("_")
        if len(parts) == 1:
            assert (row["distortion_class"], row["severity"]) == ("null", "null")
        else:
            name = list(demo.distortions.DISTORTIONS)[int(parts[1]) - 1]
            assert row["distortion_class"] == demo_tasks.CLASSES[name]
            assert row["severity"] == SEVERITIES[int(parts[2]) - 1]
        kinds[row["distortion_class"]] += 1
    assert set(kinds) == set(DISTORTION_CLASSES)


def test_comparison_agrees_with_the_quality_labels(root):
    known, results = quality(root), Counter()
    for row in rows(root, "comparison"):
        (one, first), (other, second) = known[row["ImageA"]], known[row["ImageB"]]
        assert one == other == row["ref_image"]
        gap = first - second
        expected = CHOICES[2] if abs(gap) < demo_tasks.NOTICEABLE else CHOICES[int(gap < 0)]
        assert row["result"] == expected
        results[row["result"]] += 1
    assert set(results) == set(CHOICES)


def test_no_task_moves_a_picture_to_another_split(root):
    parts = split_of(root)
    for task in ("aesthetics", "degradation", "comparison"):
        for row in rows(root, task):
            image = row.get("image") or row["ImageA"]
            assert row["split"] == parts[f"{image.removesuffix('.png').split('_')[0]}.png"]


def test_alignment_labels_count_what_fits(root):
    found = rows(root, "alignment")
    assert Counter(row["split"] for row in found) == {"test": 12, "validation": 12, "train": 36}
    for row in found:
        fits = row["rationale"].count("fits")
        assert row["gt_score"] == pytest.approx(1 + 4 * fits / 3, abs=1e-3)
        pixels = np.asarray(Image.open(root / "images" / row["image"]).convert("RGB"), np.float32)
        said, shown = row["prompt"].split(" on ")[1], pixels[0, 0]
        nearest = min(
            demo_alignment.COLOURS,
            key=lambda name: np.abs(shown - demo_alignment.COLOURS[name]).sum(),
        )
        verdict = "fits" if nearest == said else "differs"
        assert row["rationale"].lower().endswith(f"{nearest} for {said} {verdict}.")
    assert len({row["gt_score"] for row in found}) == 4


@pytest.mark.parametrize(
    "change", [{"tasks": ("beauty",)}, {"tasks": ("aesthetics",) * 2}, {"alignment_pictures": 4}]
)
def test_impossible_tasks_are_refused(change):
    with pytest.raises(UserError, match="must be"):
        demo.DemoDataConfig(**change)
