"""Adapters through a run: fine-tuning, then GRPO that goes on with them; export, resuming."""

import json
import shutil

import numpy as np
import pytest
import tiny_run
from PIL import Image
from rich.console import Console
from safetensors.numpy import load_file, save_file
from test_export import hugging_face_answer
from test_grpo_phases import StopAfter, metrics

from jaxqa.errors import UserError
from jaxqa.evaluation import evaluator
from jaxqa.stages import run
from jaxqa.stages.config import parse_config
from jaxqa.stages.sources import ModelSource
from jaxqa.train.stop import Stopped

pytestmark = [pytest.mark.slow, pytest.mark.torch]

LORA = {"rank": 4, "alpha": 8.0, "targets": ("model/layers/.*",)}
QUIET = Console(quiet=True)


def config_of(root, path=None, stages=("sft",), **lora):
    config = tiny_run.get_config(str(root))
    config.data.workers = 0
    config.stages = stages
    config.sft.update(steps=30, evaluate=False)
    if path is not None:
        with config.ignore_type():
            config.model.path, config.model.vision, config.model.text = str(path), None, None
        config.model.vision_filters = ModelSource.vision_filters
        config.model.initializer_range = ModelSource.initializer_range
        config.sft.update(steps=3, save_every=1)
        config.grpo.update(steps=3, save_every=1)
        config.grpo.optimizer.learning_rate = 1e-2
        for stage in (config.sft, config.grpo):
            stage.lora.update(LORA | lora)
    return config


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_run.write_dataset(tmp_path_factory.mktemp("lora") / "data")


@pytest.fixture(scope="module")
def base(root, tmp_path_factory):
    """The exported model of a run without adapters."""
    place = tmp_path_factory.mktemp("base")
    run.run(parse_config(config_of(root)), place, QUIET)
    return place / "export"


@pytest.fixture(scope="module")
def finished(root, base, tmp_path_factory):
    place = tmp_path_factory.mktemp("run")
    run.run(parse_config(config_of(root, base, ("sft", "grpo"))), place, QUIET)
    return place


def test_the_export_is_base_plus_adapters_and_answers_alike_in_transformers(finished, base):
    adapter = load_file(finished / "adapter" / "adapter_model.safetensors")
    settings = json.loads((finished / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base) and settings["r"] == 4
    before, after = (
        load_file(folder / "model.safetensors") for folder in (base, finished / "export")
    )
    moved = 0
    for name, tensor in after.items():
        module = name.removesuffix(".weight").replace("model.", "model.language_model.", 1)
        key = f"base_model.model.{module}.lora_A.weight"
        expected = before[name]
        if key in adapter:
            b = adapter[key.replace("lora_A", "lora_B")]
            expected = expected + 2.0 * (b @ adapter[key])
            moved += not np.array_equal(tensor, before[name])
        np.testing.assert_allclose(tensor, expected, rtol=1e-5, atol=1e-6, err_msg=name)
    assert moved == 7
    predictions = evaluator.read_predictions(finished / "evaluations" / "grpo.jsonl")[:2]
    for prediction in predictions:
        image = Image.open(finished / prediction.image)
        assert hugging_face_answer(finished / "export", image) == prediction.text


def test_checkpoints_hold_adapters_alone_and_grpo_starts_at_its_reference(finished):
    for stage in ("sft", "grpo"):
        folder = finished / "checkpoints" / stage / "3" / "state"
        names = json.loads((folder / "_METADATA").read_text())["tree_metadata"]
        held = [name for name in names if "'params'" in name]
        assert held and all("lora_" in name for name in held)
    first, *_, last = metrics(finished, "grpo")
    assert first["kl"] == 0 and last["kl"] > 0
    assert first["sampler_gap"] < 1e-5


def test_a_stopped_run_goes_on_to_the_same_adapters(root, base, finished, tmp_path):
    config = parse_config(config_of(root, base, ("sft", "grpo")))
    with pytest.raises(Stopped):
        run.run(config, tmp_path, QUIET, StopAfter(tmp_path, "grpo"))
    run.run(config, tmp_path, QUIET)
    for name in ("adapter/adapter_model.safetensors", "export/model.safetensors"):
        one, other = (load_file(place / name) for place in (finished, tmp_path))
        for key, tensor in one.items():
            np.testing.assert_array_equal(tensor, other[key])
    shutil.rmtree(tmp_path / "export")  # made again from the checkpoints, bases included
    run.run(config, tmp_path, QUIET)
    again = load_file(tmp_path / "export" / "model.safetensors")
    np.testing.assert_array_equal(*(next(iter(sorted(t.items())))[1] for t in (one, again)))


def test_references_and_bases_compose(root, base, tmp_path):
    """Adapters of another size start from the merged policy; the first model is a base."""
    config = config_of(root, base, ("sft", "grpo"))
    config.sft.update(steps=1)
    config.grpo.update(steps=1, evaluate=False, reference="initial")
    kl = {}
    for name, changes in {"same": {}, "other": {"rank": 2}, "none": {"rank": 0}}.items():
        config.grpo.lora.update(LORA | changes)
        run.run(parse_config(config), tmp_path / name, QUIET)
        kl[name] = metrics(tmp_path / name, "grpo")[0]["kl"]
        assert (tmp_path / name / "adapter").exists() == (name == "same")
    assert kl["same"] > 1e-6  # fine-tuning moved it from the first model
    assert kl["other"] == pytest.approx(kl["same"], rel=1e-3)
    assert kl["none"] == pytest.approx(kl["same"], rel=1e-3)


def test_another_base_is_refused(root, base, tmp_path):
    place, moved = tmp_path / "run", tmp_path / "base"
    shutil.copytree(base, moved)
    config = parse_config(config_of(root, moved, ("sft",)))
    run.run(config, place, QUIET)
    summary = json.loads((place / "summary.json").read_text())
    (place / "summary.json").write_text(json.dumps(summary | {"stages": []}))
    shutil.rmtree(place / "checkpoints" / "sft" / "3")
    weights = dict(load_file(moved / "model.safetensors"))
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = weights[name] + np.float32(1e-3)
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="belongs to adapters of another model"):
        run.run(config, place, QUIET)
