"""A distilled scorer through `jaxqa.load`, as the doors and the server use it."""

import asyncio

import numpy as np
import pytest
from distill_fixtures import encode, make_artifact, make_triplets

import jaxqa
from jaxqa.distill.artifact import save_artifact
from jaxqa.distill.scorer import RaliScorer
from jaxqa.errors import UserError
from jaxqa.serving.compilations import Compilations
from jaxqa.serving.service import Service
from jaxqa.sharding import MeshConfig

IMAGES = [triplet.image for triplet in make_triplets(5)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("scorer") / "rali"
    save_artifact(path, make_artifact(clip=True))
    return path


@pytest.fixture(scope="module")
def loaded(directory):
    return jaxqa.load(directory, mesh=MeshConfig(), block_rows=4)


def test_the_same_scores_as_the_scorer_itself(loaded):
    assert loaded.tasks == ("quality",) and loaded.score_range() == (1.0, 5.0)
    found = loaded.score(IMAGES)
    own = RaliScorer(make_artifact(clip=True), block_size=4).score(IMAGES)
    assert [score.score for score in found] == [answer.score for answer in own]
    assert all(score.rationale == "" and score.error is None for score in found)


def test_unreadable_images_have_an_error(loaded, tmp_path):
    (tmp_path / "x.png").write_text("no")
    found = loaded.score([IMAGES[0], tmp_path / "x.png", np.zeros((4, 900, 3), np.uint8)])
    assert [score.score is None for score in found] == [False, True, True]
    assert "aspect ratio" in found[2].error


def test_two_images_are_compared_by_their_scores(loaded):
    first, second = loaded.score(IMAGES[:2])
    found = loaded.compare(IMAGES[0], IMAGES[1])
    assert found.method == "scores"
    better = "Image A" if first.score > second.score else "Image B"
    assert found.choice in (better, "Similar")


def test_what_it_cannot_do_is_refused(loaded, directory):
    with pytest.raises(UserError, match="rates quality only"):
        loaded.score(IMAGES, task="aesthetics")
    for options in ({"mode": "think"}, {"mode": "expected"}, {"mode": "mean"}):
        with pytest.raises(UserError, match="gives one score and no reasons"):
            loaded.score(IMAGES, **options)
    (found,) = loaded.score(IMAGES[:1], prompts="a cat")
    assert "leave the prompt out" in found.error
    with pytest.raises(UserError, match="max_pixels: .* is a distilled scorer"):
        jaxqa.load(directory, max_pixels=100)
    with pytest.raises(UserError, match="block_rows is 3; expected a multiple of the 8"):
        jaxqa.load(directory, block_rows=3)


def test_a_server_warms_it_up(loaded):
    """It is asked without a text, which clients send to whatever scores."""
    service, lines = Service(loaded, name="tiny"), []
    for sizes in ([(20, 30)], None):
        service.warm_up(sizes, tell=lines.append)
    ready = Compilations()
    scores = asyncio.run(service.score(service.question(), IMAGES, ["a cat"] * len(IMAGES)))
    pair = {"image A": IMAGES[0], "image B": IMAGES[1]}
    compared = asyncio.run(service.compare(service.question(), pair, "a cat"))
    service.batcher.close()
    wanted = [score.score for score in loaded.score(IMAGES)]
    assert [score.score for score in scores] == wanted and not ready.count
    assert list(compared.scores) == wanted[:2]
    assert lines[1].startswith("compiled quality, fast for shape 1 of 1 in ")


def test_an_answer_outside_of_the_range_is_no_score(tmp_path):
    artifact = make_artifact(clip=False)
    save_artifact(tmp_path / "open", artifact)
    found = jaxqa.load(tmp_path / "open", mesh=MeshConfig(), block_rows=4).score(IMAGES)
    raw = list(RaliScorer(artifact, block_size=4).score(IMAGES))
    outside = [not 1 <= answer.score <= 5 for answer in raw]
    assert any(outside)
    assert [score.score is None for score in found] == outside
    assert "is outside of 1 to 5" in found[outside.index(True)].error


def test_arrays_and_files_score_alike(loaded):
    pixels = np.full((30, 20, 3), 77, np.uint8)
    a, b = loaded.score([pixels, encode(pixels)])
    assert a.score == b.score
