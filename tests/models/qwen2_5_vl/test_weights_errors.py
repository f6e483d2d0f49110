"""Damaged, foreign and incomplete model directories end in one UserError that names the cause."""

import json
import resource
import shutil
import struct

import jax
import numpy as np
import pytest
from qwen_fixtures import SMALL, perturb
from safetensors.numpy import load_file, save_file

from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl import weights
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL

FILE = "model.safetensors"


@pytest.fixture(scope="module")
def params():
    abstract = Qwen2_5_VL(config=SMALL).abstract_params()
    return perturb(jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), abstract))


@pytest.fixture(scope="module")
def sources(params, tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    weights.save_pretrained(root / "hf", SMALL, params)
    weights.save_pretrained(root / "sharded", SMALL, params, max_shard_bytes=100_000)
    weights.save_pretrained(root / "jaxqa", SMALL, params, format="jaxqa")
    return root


@pytest.fixture
def copy(sources, tmp_path):
    def make(name):
        return shutil.copytree(sources / name, tmp_path / name)

    return make


def refusal(directory) -> str:
    with pytest.raises(UserError) as caught:
        weights.load_model_directory(directory)
    message = str(caught.value)
    assert "\n" not in message and str(directory) in message
    return message


def edit_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_lists_every_tensor_that_does_not_fit(copy):
    directory = copy("hf")
    tensors = load_file(directory / FILE)
    del tensors["model.norm.weight"], tensors["visual.blocks.3.attn.qkv.bias"]
    tensors["model.layers.7.mlp.up_proj.weight"] = np.zeros((2, 2), np.float32)
    tensors["score.weight"] = np.zeros(3, np.float32)
    tensors["visual.merger.ln_q.weight"] = np.zeros(5, np.float32)
    save_file(tensors, directory / FILE)
    message = refusal(directory)
    assert "2 missing, 2 unexpected, 1 of wrong shape" in message
    assert "missing: model.norm.weight, visual.blocks.3.attn.qkv.bias;" in message
    assert "unexpected: model.layers.7.mlp.up_proj.weight, score.weight;" in message
    assert "visual.merger.ln_q.weight is [5], expected [32]" in message


def test_a_stored_and_nested_name_for_one_tensor(copy):
    directory = copy("hf")
    tensors = load_file(directory / FILE)
    tensors["model.language_model.norm.weight"] = tensors["model.norm.weight"]
    save_file(tensors, directory / FILE)
    assert "model.norm.weight is stored under two names" in refusal(directory)


def test_missing_shards_are_named(copy):
    directory = copy("sharded")
    gone = sorted(directory.glob("model-*"))[1:3]
    for path in gone:
        path.unlink()
    message = refusal(directory)
    assert "missing" in message and all(path.name in message for path in gone)


def test_a_tensor_in_two_shards(copy):
    directory = copy("sharded")
    first, second, *_ = sorted(directory.glob("model-*"))
    save_file(load_file(first) | load_file(second), second)
    assert f"{first.name} and {second.name}" in refusal(directory)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_index_must_not_leave_the_directory(copy, name):
    directory = copy("sharded")
    index = {"weight_map": {"model.norm.weight": name}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "plain file names" in refusal(directory)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": [1]}'])
def test_damaged_index(copy, index):
    directory = copy("sharded")
    (directory / "model.safetensors.index.json").write_text(index)
    assert "model.safetensors.index.json" in refusal(directory)


def damage_cut_data(content):
    return content[:-1]


def damage_cut_header(content):
    return content[:100]


def damage_empty(content):
    return b""


def damage_huge_header(content):
    return struct.pack("<Q", 2**62) + content[8:]


def damage_not_json(content):
    return content[:8] + b"#" + content[9:]


def damage_trailing(content):
    return content + b"x"


@pytest.mark.parametrize(
    "damage",
    [
        damage_cut_data,
        damage_cut_header,
        damage_empty,
        damage_huge_header,
        damage_not_json,
        damage_trailing,
    ],
)
def test_damaged_safetensors(copy, damage):
    directory = copy("hf")
    (directory / FILE).write_bytes(damage((directory / FILE).read_bytes()))
    message = refusal(directory)
    assert "damaged or cut off" in message and FILE in message


def test_quantised_tensors(copy):
    directory = copy("hf")
    tensors = load_file(directory / FILE)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.int8)
    save_file(tensors, directory / FILE)
    assert "model.norm.weight has type I8" in refusal(directory)


def test_layers_of_different_type_need_a_choice(copy):
    directory = copy("hf")
    tensors = load_file(directory / FILE)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].astype(np.float16)
    save_file(tensors, directory / FILE)
    with pytest.raises(UserError, match="mlp/up_proj/kernel are stored as float16, float32"):
        weights.load_model_directory(directory)
    loaded = weights.load_model_directory(directory, dtype="float32")[1]
    assert loaded["model"]["layers"]["mlp"]["up_proj"]["kernel"].dtype == np.float32


def test_pickled_weights_are_not_opened(copy):
    directory = copy("hf")
    (directory / FILE).rename(directory / "pytorch_model.bin")
    assert "safetensors" in refusal(directory)


def test_directory_or_config_that_is_not_there(copy, tmp_path):
    assert "does not exist" in refusal(tmp_path / "nowhere")
    directory = copy("hf")
    (directory / "config.json").unlink()
    assert "config.json" in refusal(directory)


@pytest.mark.parametrize("content", ["", "{", "[1]", '"text"', "\xff", "[" * 100_000])
def test_unreadable_config(copy, content):
    directory = copy("hf")
    (directory / "config.json").write_text(content, encoding="latin-1")
    assert "config.json" in refusal(directory)


def test_config_of_another_size_lists_the_tensors(copy):
    directory = copy("hf")
    edit_config(directory, num_hidden_layers=2, vocab_size=81)
    message = refusal(directory)
    assert "12 unexpected" in message and "lm_head.weight is [80, 96], expected [81, 96]" in message


@pytest.mark.parametrize("gone", ["params", "params/_METADATA", "params/d"])
def test_incomplete_jaxqa_directory(copy, gone):
    directory = copy("jaxqa")
    path = directory / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    message = refusal(directory)
    assert "damaged" in message and path.name in message


def test_cut_file_of_a_jaxqa_directory(copy):
    directory = copy("jaxqa")
    largest = max(directory.rglob("d/*"), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    assert largest.name in refusal(directory)


def test_damaged_metadata_of_a_jaxqa_directory(copy):
    directory = copy("jaxqa")
    path = directory / "params" / "_METADATA"
    path.write_text("{" + " " * (path.stat().st_size - 1))
    assert "damaged or incomplete" in refusal(directory)


def test_jaxqa_directory_of_another_size(copy):
    directory = copy("jaxqa")
    edit_config(directory, num_hidden_layers=2, tie_word_embeddings=True)
    message = refusal(directory)
    assert "unexpected: lm_head/weight" in message
    assert "model/layers/mlp/up_proj/kernel is [3, 96, 72], expected [2, 96, 72]" in message


def test_unknown_dtype(sources):
    with pytest.raises(UserError, match="int8.*float32, bfloat16, float16"):
        weights.load_model_directory(sources / "hf", dtype="int8")


@pytest.mark.parametrize("format", ["hf", "jaxqa"])
def test_output_that_is_taken_stays_as_it_was(tmp_path, params, format):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        weights.save_pretrained(tmp_path / "out", SMALL, params, format=format)
    with pytest.raises(UserError, match="not a directory"):
        weights.save_pretrained(tmp_path / "file", SMALL, params, format=format)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "mine.txt", "out"]


def test_too_little_room_is_noticed_before_writing(tmp_path, monkeypatch, params):
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"cannot write 0.\d+ GB .*: 0.0001 GB are free"):
        weights.save_pretrained(tmp_path / "out", SMALL, params)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_nothing(tmp_path, params):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot write"):
            weights.save_pretrained(tmp_path / "out", SMALL, params)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
