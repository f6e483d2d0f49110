"""An answer depends on its image alone; unreadable images are reported, not lost."""

import dataclasses
from pathlib import Path

import pytest
import tiny_run
from rich.console import Console

from jaxqa.scoring.scorer import Scorer
from jaxqa.stages.config import parse_config
from jaxqa.stages.setup import set_up
from jaxqa.stages.workdir import WorkDir


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    place = tmp_path_factory.mktemp("scorer")
    config = tiny_run.get_config(str(tiny_run.write_dataset(place / "data")))
    # A random tied model repeats its last token; this one answers differently to each image.
    config.model.initializer_range = 0.3
    config.model.text.tie_word_embeddings = False
    return set_up(parse_config(config), WorkDir(place), Console(quiet=True))


@pytest.fixture(scope="module")
def params(setup):
    return setup.initial_params()


@pytest.fixture(scope="module")
def scorer(setup):
    return Scorer(
        model=setup.model,
        encoder=setup.encoder,
        template=setup.test["demo"].template,
        mesh=setup.mesh,
        buckets=setup.config.data.buckets,
        max_new_tokens=8,
        batch_size=4,
    )


def texts(scorer, params, examples):
    return {a.example.example_id: a.text for a in scorer.score(params, examples)}


def images(setup):
    return list(setup.test["demo"].examples)


def test_an_answer_does_not_depend_on_its_neighbours(scorer, params, setup):
    together = texts(scorer, params, images(setup))
    assert len(together) == 6 and len(set(together.values())) > 1
    assert texts(scorer, params, images(setup)[::-1]) == together
    for example in images(setup)[:2]:
        assert texts(scorer, params, [example]) == {
            example.example_id: together[example.example_id]
        }


def test_an_unreadable_image_is_an_answer_with_an_error(scorer, params, setup, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    broken = dataclasses.replace(images(setup)[0], example_id=1, image=Path(bad))
    answers = {a.example.example_id: a for a in scorer.score(params, [*images(setup)[1:], broken])}
    assert len(answers) == 6
    assert answers[1].score is None and "bad.png" in str(answers[1].error)
    good = texts(scorer, params, images(setup)[1:])
    assert {k: a.text for k, a in answers.items() if k != 1} == good
