"""Which policy a stage starts from, and that finished stages' policies come back."""

import shutil

import numpy as np
import pytest
import tiny_run
from rich.console import Console
from safetensors.numpy import load_file

from jaxqa.errors import UserError
from jaxqa.stages import run
from jaxqa.stages.config import parse_config

STANDS_STILL = 1e-30
"""A learning rate too small to move any float32 parameter."""


def a_run(root, *, start_from):
    """Warm-up, SFT, and a second SFT that leaves the policy as it finds it."""
    config = tiny_run.get_config(str(root))
    config.data.workers = 0
    with config.unlocked():
        config.again = config.sft.copy_and_resolve_references()
    config.stages = ("warmup", "sft", "again")
    config.sft.update(steps=2, evaluate=False)
    config.again.update(steps=1, evaluate=False, start_from=start_from)
    config.again.optimizer.learning_rate = STANDS_STILL
    return config


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_run.write_dataset(tmp_path_factory.mktemp("start") / "data")


@pytest.fixture(scope="module")
def exports(root, tmp_path_factory):
    """Exported weights of runs whose last stage starts from here and there."""
    found = {}
    for start in ("previous", "sft", "warmup", "initial"):
        place = tmp_path_factory.mktemp(start)
        run.run(parse_config(a_run(root, start_from=start)), place, Console(quiet=True))
        found[start] = place
    return found


def weights(place):
    return load_file(place / "export" / "model.safetensors")


def equal(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_a_stage_starts_where_it_is_told(exports):
    found = {start: weights(place) for start, place in exports.items()}
    assert equal(found["previous"], found["sft"])
    for one, other in (("sft", "warmup"), ("warmup", "initial"), ("sft", "initial")):
        assert not equal(found[one], found[other])
    # Warm-up trains the vision tower alone.
    name = "model.embed_tokens.weight"
    key = next(key for key in found["warmup"] if key.endswith(name.removeprefix("model.")))
    np.testing.assert_array_equal(found["warmup"][key], found["initial"][key])


@pytest.mark.slow
def test_a_lost_export_is_made_again_from_the_checkpoint(root, exports, tmp_path):
    place = tmp_path / "run"
    shutil.copytree(exports["warmup"], place)
    shutil.rmtree(place / "export")
    config = parse_config(a_run(root, start_from="warmup"))
    run.run(config, place, Console(quiet=True))
    assert equal(weights(place), weights(exports["warmup"]))

    shutil.rmtree(place / "export")
    shutil.rmtree(place / "checkpoints" / "again" / "1")
    with pytest.raises(UserError, match="stage again is finished, but its checkpoint of step 1"):
        run.run(config, place, Console(quiet=True))


def test_a_stage_cannot_start_from_a_later_one(root):
    config = a_run(root, start_from="previous")
    config.sft.start_from = "again"
    with pytest.raises(UserError, match="config.sft.start_from: got 'again'; expected previous"):
        parse_config(config)
