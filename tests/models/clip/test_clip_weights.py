"""Checkpoints read and written against `transformers` itself, and bit for bit."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clip_fixtures import CLIP, LEGACY, SIGLIP, TorchTwin, draw_inputs, draw_params, hf_class
from clip_fixtures import pixel_values as to_pixel_values
from safetensors.numpy import load_file, save_file

from jaxqa import sharding, tree
from jaxqa.errors import UserError
from jaxqa.models import safetensors_io, weight_table
from jaxqa.models.clip import hf_config, weights
from jaxqa.models.clip.config import PRESETS
from jaxqa.models.clip.model import Clip

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

CASES = {
    "clip": CLIP,
    "legacy": LEGACY,
    "siglip": SIGLIP,
    "clip image": CLIP.image_only(),
    "siglip image": SIGLIP.image_only(),
}


@pytest.fixture(scope="module", params=list(CASES))
def case(request, tmp_path_factory):
    """Config, parameters, torch twin, and the directory `transformers` writes of it."""
    config = CASES[request.param]
    params = draw_params(config)
    twin = TorchTwin(config, params)
    directory = tmp_path_factory.mktemp("hf")
    twin.model.save_pretrained(directory)
    values = hf_config.preprocessor_config(config)
    (directory / "preprocessor_config.json").write_text(json.dumps(values))
    return config, params, twin, directory


def assert_same_bits(actual, expected):
    actual, expected = tree.flatten(actual), tree.flatten(expected)
    assert actual.keys() == expected.keys()
    for path, leaf in expected.items():
        assert actual[path].dtype == leaf.dtype, path
        assert np.asarray(actual[path]).tobytes() == np.asarray(leaf).tobytes(), path


def test_reads_what_transformers_writes(case):
    config, params, _, directory = case
    found_config, found = weights.load_model_directory(directory)
    assert found_config == config
    assert_same_bits(found, params)


def test_export_loads_in_transformers_with_equal_outputs(case, tmp_path):
    config, params, twin, source = case
    weights.save_pretrained(tmp_path / "out", config, params, max_shard_bytes=20_000)
    model, info = hf_class(config)[1].from_pretrained(
        tmp_path / "out", attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values()), info
    pixels, ids = draw_inputs(config if config.text else CLIP)
    inputs = {"pixel_values": to_pixel_values(pixels, config)}
    if config.text:
        inputs["input_ids"] = torch.from_numpy(ids).long()
    with torch.no_grad():
        expected, actual = twin.model(**inputs), model.eval()(**inputs)
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(actual[name], value), name
    assert weights.load_model_directory(tmp_path / "out")[0] == config


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_round_trip_keeps_every_bit(tmp_path, dtype):
    """Every kind of bit pattern, NaN payloads included, for both families."""
    for config in (CLIP, SIGLIP):
        source, out = tmp_path / config.family, tmp_path / f"{config.family} out"
        weights.save_pretrained(source, config, draw_params(config))
        rng, kind = np.random.default_rng(0), safetensors_io.DTYPES[dtype]
        slots = weight_table.slots(weights.ROWS, Clip(config=config).abstract_params())
        tensors = {
            name: np.frombuffer(rng.bytes(int(np.prod(slot.shape)) * kind.itemsize), kind).reshape(
                slot.shape
            )
            for name, slot in slots.items()
        }
        save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
        loaded_config, params = weights.load_model_directory(source)
        weights.save_pretrained(out, loaded_config, params, source_dir=source)
        assert (out / "model.safetensors").read_bytes() == (
            source / "model.safetensors"
        ).read_bytes()


def test_image_only_leaves_the_text_tower_in_its_file(tmp_path):
    params = draw_params(CLIP)
    weights.save_pretrained(tmp_path / "both", CLIP, params)
    config, tower = weights.load_model_directory(tmp_path / "both", image_only=True)
    assert config == CLIP.image_only()
    assert_same_bits(tower, {key: params[key] for key in ("vision_model", "visual_projection")})


def test_old_files_with_position_buffers_load(tmp_path):
    params = draw_params(CLIP)
    weights.save_pretrained(tmp_path / "old", CLIP, params)
    tensors = load_file(tmp_path / "old" / "model.safetensors")
    for tower, length in (("vision_model", 17), ("text_model", 9)):
        tensors[f"{tower}.embeddings.position_ids"] = np.arange(length)[None]
    save_file(tensors, tmp_path / "old" / "model.safetensors")
    assert_same_bits(weights.load_model_directory(tmp_path / "old")[1], params)


def test_placed_and_cast_while_reading(tmp_path):
    params = draw_params(CLIP)
    weights.save_pretrained(tmp_path / "m", CLIP, params)
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    places = sharding.tree_shardings(Clip(config=CLIP).abstract_params(), sharding.CLIP_RULES, mesh)
    found = weights.load_model_directory(tmp_path / "m", dtype="bfloat16", shardings=places)[1]
    assert_same_bits(found, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params))
    assert found["visual_projection"]["kernel"].sharding.spec == jax.P("fsdp", None)


def test_tokenizer_files_travel(tmp_path):
    weights.save_pretrained(tmp_path / "a", CLIP, draw_params(CLIP))
    (tmp_path / "a" / "tokenizer.json").write_text("{}")
    weights.save_pretrained(tmp_path / "b", CLIP, draw_params(CLIP), source_dir=tmp_path / "a")
    assert (tmp_path / "b" / "tokenizer.json").read_text() == "{}"


# What the Hub's files hold: `transformers`' defaults are left out, the first ones have *_dict.
HUB = {
    "vit-l-14-336": {
        "model_type": "clip",
        "projection_dim": 768,
        "text_config": {"hidden_size": 1},
        "text_config_dict": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "projection_dim": 768,
        },
        "vision_config": {"hidden_size": 1},
        "vision_config_dict": {
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
            "projection_dim": 768,
        },
    },
    "vit-b-32": {"model_type": "clip", "text_config": {}, "vision_config": {}},
    "siglip-b-16": {
        "model_type": "siglip",
        "text_config": {"model_type": "siglip_text_model"},
        "vision_config": {"model_type": "siglip_vision_model"},
    },
}


@pytest.mark.parametrize("name", list(HUB))
def test_reads_the_hubs_configs(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(HUB[name]))
    assert hf_config.read_config(tmp_path) == PRESETS[name]


def test_fields_of_the_source_are_kept(tmp_path):
    weights.save_pretrained(tmp_path / "a", CLIP, draw_params(CLIP))
    values = json.loads((tmp_path / "a" / "config.json").read_text())
    values["text_config"]["bos_token_id"] = 36
    (tmp_path / "a" / "config.json").write_text(json.dumps(values))
    weights.save_pretrained(tmp_path / "b", CLIP, draw_params(CLIP), source_dir=tmp_path / "a")
    assert json.loads((tmp_path / "b" / "config.json").read_text()) == values


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"model_type": "blip"}, "model_type is 'blip', expected one of clip"),
        ("config.json", {"projection_dim": "many"}, "projection_dim is 'many', expected int"),
        ("config.json", {"text_config": 3}, "text_config is 3, expected an object"),
        ("config.json", {"vision_config": {"hidden_size": 25}}, "multiple of num_attention_heads"),
        ("config.json", {"vision_config": {"num_channels": 1}}, "3 channels"),
        ("config.json", {"projection_dim": 15}, r"wrong shape: .*\[15, 24\]"),
        ("preprocessor_config.json", {"resample": 2}, "resample is 2, expected 3"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, "image_mean is .*three numbers"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 30}}, "expected the image tower"),
        ("preprocessor_config.json", {"crop_size": 20}, r"image_size \(22\)"),
        ("preprocessor_config.json", {"image_std": [0.0, 1.0, 1.0]}, "image_std"),
    ],
)
def test_bad_directories_are_refused(tmp_path, file, change, message):
    directory = tmp_path / "m"
    weights.save_pretrained(directory, CLIP, draw_params(CLIP))
    values = json.loads((directory / file).read_text())
    (directory / file).write_text(json.dumps(values | change))
    with pytest.raises(UserError, match=message):
        weights.load_model_directory(directory)


def test_missing_directory_tower_and_type_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        weights.load_model_directory(tmp_path / "none")
    weights.save_pretrained(tmp_path / "m", CLIP, draw_params(CLIP))
    with pytest.raises(UserError, match="dtype is 'int8'"):
        weights.load_model_directory(tmp_path / "m", dtype="int8")
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    tensors.pop("visual_projection.weight")
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    with pytest.raises(UserError, match="missing: visual_projection.weight"):
        weights.load_model_directory(tmp_path / "m")
    wrong = dataclasses.replace(SIGLIP, text=None)
    values = hf_config.model_config(wrong, dtype="float32") | {"vision_use_head": False}
    (tmp_path / "m" / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="pooling head"):
        weights.load_model_directory(tmp_path / "m")
