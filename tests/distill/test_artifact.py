"""Artifacts: written whole, read exactly, refused when they do not fit."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from distill_fixtures import CLIP, SIGLIP, make_artifact
from safetensors.numpy import load_file, save_file

from jaxqa import tree
from jaxqa.distill.artifact import (
    Artifact,
    export_encoder,
    is_artifact,
    load_artifact,
    save_artifact,
)
from jaxqa.errors import UserError
from jaxqa.models.clip import weights


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    artifact = make_artifact()
    path = tmp_path_factory.mktemp("a") / "rali"
    save_artifact(path, artifact)
    return artifact, path


def copy(stored, tmp_path):
    path = tmp_path / "rali"
    path.mkdir()
    for file in stored[1].iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    return path


def edit_json(path, change):
    values = json.loads((path / "rali.json").read_text())
    change(values)
    (path / "rali.json").write_text(json.dumps(values))


def edit_tensors(path, change):
    tensors = load_file(path / "rali.safetensors")
    change(tensors)
    save_file(tensors, path / "rali.safetensors")


@pytest.mark.parametrize("config", [CLIP, SIGLIP], ids=["clip", "siglip"])
def test_what_is_read_is_what_was_written(config, tmp_path):
    artifact = make_artifact(config)
    save_artifact(tmp_path / "x" / "rali", artifact)
    assert is_artifact(tmp_path / "x" / "rali") and not is_artifact(tmp_path / "x")
    found = load_artifact(tmp_path / "x" / "rali")
    assert found.config == artifact.config
    assert found.provenance == artifact.provenance
    assert found.basis.mapping == artifact.basis.mapping
    assert found.basis.temperature == artifact.basis.temperature
    for a, b in ((found.encoder, artifact.encoder), (found.basis.params, artifact.basis.params)):
        a, b = tree.flatten(a), tree.flatten(b)
        assert a.keys() == b.keys()
        assert all(np.asarray(a[key]).tobytes() == np.asarray(b[key]).tobytes() for key in b)


def test_only_json_and_safetensors(stored):
    assert sorted(file.name for file in stored[1].iterdir()) == ["rali.json", "rali.safetensors"]
    values = json.loads((stored[1] / "rali.json").read_text())
    assert values["preprocessing"]["size"] == {"shortest_edge": 16}


def test_nothing_is_left_of_a_failed_write(tmp_path, stored):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    with pytest.raises(UserError, match="not empty"):
        save_artifact(tmp_path / "taken", stored[0])
    wrong = make_artifact(dataclasses.replace(CLIP, projection_dim=8))
    wrong = dataclasses.replace(wrong, basis=stored[0].basis)
    with pytest.raises(UserError, match="takes embeddings of 20 values and the encoder makes 8"):
        save_artifact(tmp_path / "new", wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_text_tower_does_not_belong_into_an_artifact(stored):
    with pytest.raises(ValueError, match="image tower only"):
        Artifact(config=CLIP, encoder=stored[0].encoder, basis=stored[0].basis)


def test_the_image_tower_becomes_a_hugging_face_directory(stored, tmp_path):
    export_encoder(tmp_path / "hf", stored[0])
    config, params = weights.load_model_directory(tmp_path / "hf")
    assert config == stored[0].config
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(stored[0].encoder), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(jaxqa_rali=2), "jaxqa_rali is 2, expected 1"),
        (lambda v: v.pop("encoder"), "encoder is None, expected an object"),
        (lambda v: v["encoder"]["vision"].update(patch_size="8"), "vision.patch_size: got '8'"),
        (lambda v: v["encoder"]["vision"].update(depth=8), "unknown key 'depth'"),
        (lambda v: v["encoder"].update(family="blip"), "expected clip or siglip"),
        (lambda v: v["encoder"].update(projection_dim=21), "encoder makes 21"),
        (lambda v: v["encoder"]["vision"].update(num_hidden_layers=2), "wrong shape"),
        (lambda v: v["mapping"].update(low=5.0), "expected low < high"),
        (lambda v: v["mapping"].update(slope=float("nan")), "expected finite numbers"),
        (lambda v: v["mapping"].pop("high"), "missing key 'high'"),
        (lambda v: v.update(temperature=0), "temperature is 0, expected a positive number"),
        (lambda v: v.update(temperature="warm"), "temperature is 'warm'"),
        (lambda v: v.update(provenance=[]), r"provenance is \[\], expected an object"),
    ],
)
def test_a_wrong_json_is_refused(stored, tmp_path, change, message):
    path = copy(stored, tmp_path)
    edit_json(path, change)
    with pytest.raises(UserError, match=message):
        load_artifact(path)


def test_wrong_tensors_are_refused(stored, tmp_path):
    def swap(name, value):
        path = copy(stored, tmp_path / name.replace("/", "-") / str(len(value.shape)))
        edit_tensors(path, lambda tensors: tensors.update({name: value}))
        return path

    for folder in (
        "basis-vectors/2",
        "basis-scores/1",
        "basis-mean/1",
        "basis-components/1",
        "basis-other/1",
    ):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(UserError, match="wrong shape: basis/vectors"):
        load_artifact(swap("basis/vectors", np.zeros((9, 5), np.float32)))
    nan = np.full((9,), np.nan, np.float32)
    with pytest.raises(UserError, match="basis/scores holds values that are not finite"):
        load_artifact(swap("basis/scores", nan))
    with pytest.raises(UserError, match="basis/mean has type int32"):
        load_artifact(swap("basis/mean", np.zeros(20, np.int32)))
    with pytest.raises(UserError, match="no score basis"):
        load_artifact(swap("basis/components", nan))
    with pytest.raises(UserError, match="unexpected: basis/other"):
        load_artifact(swap("basis/other", nan))


def test_missing_and_cut_files_are_refused(stored, tmp_path):
    with pytest.raises(UserError, match="holds no rali.json"):
        load_artifact(tmp_path)
    path = copy(stored, tmp_path)
    data = (path / "rali.safetensors").read_bytes()
    (path / "rali.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="missing or damaged"):
        load_artifact(path)
    (path / "rali.safetensors").unlink()
    with pytest.raises(UserError, match="missing or damaged"):
        load_artifact(path)
    (path / "rali.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        load_artifact(path)
