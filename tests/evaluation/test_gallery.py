import base64
import io
import random

import numpy as np
import pytest
from PIL import Image

from jaxqa.evaluation import gallery
from jaxqa.evaluation.evaluator import Prediction


def prediction(example_id, label, score):
    return Prediction(
        example_id=example_id,
        image=f"{example_id}.png",
        dataset="jaxqa_demo",
        label=label,
        score=score,
        text="",
        error="no score" if score is None else None,
    )


def some_predictions(count, seed=0):
    numbers = random.Random(seed)
    return [
        prediction(i, numbers.uniform(1, 5), None if i % 7 == 3 else numbers.uniform(1, 5))
        for i in range(count)
    ]


def ids(groups):
    return {group.title: [p.example_id for p in group.predictions] for group in groups}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 8, 13, 30, 200])
def test_choice_ignores_order_and_shows_no_photograph_twice(count):
    predictions = some_predictions(count)
    chosen = ids(gallery.choose_groups(predictions))
    everything = [i for group in chosen.values() for i in group]
    assert len(everything) == len(set(everything)) <= 24
    assert all(chosen.values()) and (count == 0 or everything)
    random.Random(1).shuffle(predictions)
    assert ids(gallery.choose_groups(predictions)) == chosen
    if count <= 13:
        assert sorted(everything) == list(range(count))


def test_groups_are_what_their_titles_say():
    predictions = some_predictions(100)
    by_id = {p.example_id: p for p in predictions}
    chosen = ids(gallery.choose_groups(predictions))
    errors = {i: abs(p.score - p.label) for i, p in by_id.items() if p.score is not None}
    ranked = sorted(errors, key=errors.__getitem__)
    assert chosen["Closest"] == ranked[:4]
    assert chosen["Furthest off"] == ranked[:-5:-1]
    labels = [by_id[i].label for i in chosen["Across the scale"]]
    assert len(labels) == 12 and labels == sorted(labels)
    assert labels[0] < 1.5 and labels[-1] > 4.5 and max(np.diff(labels)) < 1
    assert all(by_id[i].score is None for i in chosen["No score"]) and len(chosen["No score"]) == 4


def test_ties_are_broken_by_number():
    predictions = [prediction(i, 3.0, 3.0) for i in range(20)]
    assert ids(gallery.choose_groups(predictions))["Closest"] == [0, 1, 2, 3]


def decoded(uri):
    header, _, data = uri.partition(",")
    assert header == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize("size", [(1, 1), (30, 17), (900, 300), (300, 900)])
def test_thumbnail_is_a_small_jpeg_of_the_same_picture(tmp_path, size):
    ramp = np.linspace(0, 255, size[0], dtype=np.uint8)
    picture = np.repeat(np.tile(ramp, (size[1], 1))[..., None], 3, axis=2)
    Image.fromarray(picture).save(tmp_path / "a.png")
    uri = gallery.thumbnail(tmp_path, "a.png")
    assert uri is not None
    small = decoded(uri)
    scale = min(1, gallery.THUMBNAIL_SIDE / max(size))
    assert small.format == "JPEG" and small.size == tuple(max(1, round(s * scale)) for s in size)
    resized = Image.fromarray(picture).resize(small.size)
    difference = np.asarray(small, int) - np.asarray(resized, int)
    assert abs(difference).mean() < 3


def test_thumbnail_keeps_no_metadata(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    Image.new("RGB", (20, 20)).save(tmp_path / "a.jpg", exif=exif, comment=b"secret comment")
    uri = gallery.thumbnail(tmp_path, "a.jpg")
    assert uri is not None and b"secret" not in base64.b64decode(uri.partition(",")[2])


def test_files_that_are_no_images_have_no_thumbnail(tmp_path):
    (tmp_path / "a.png").write_bytes(b"<svg onload='alert(1)'/>")
    assert gallery.thumbnail(tmp_path, "a.png") is None
    assert gallery.thumbnail(tmp_path, "missing.png") is None
    assert gallery.thumbnail(tmp_path, "/dev/zero") is None


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        ("<think> soft \n edges </think><answer>3</answer>", "soft \n edges"),
        ("<think>cut off by the len", "cut off by the len"),
        ("  no tags at all ", "no tags at all"),
        ("<think></think><answer>3</answer>", ""),
        ("<think>a</think><think>b</think>", "a"),
    ],
)
def test_rationale_is_the_inside_of_think(text, thought):
    assert gallery.rationale(text) == thought
