"""`config.json` in every layout that is in the wild, and what is refused."""

import copy
import dataclasses
import json

import pytest

from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl import hf_config, hf_export
from jaxqa.models.qwen2_5_vl.config import PRESETS
from jaxqa.models.qwen2_5_vl.preprocess import ImageConfig

# As published for Qwen2.5-VL-3B-Instruct.
FLAT = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_token_id": 151654,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 128000,
    "max_window_layers": 70,
    "model_type": "qwen2_5_vl",
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.41.2",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_config": {
        "depth": 32,
        "hidden_act": "silu",
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": 2048,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vocab_size": 151936,
}
ROOT_KEYS = {
    "architectures",
    "model_type",
    "vision_config",
    "transformers_version",
    *hf_config.TOKEN_IDS,
}


def nested(*, version: int) -> dict:
    """What `transformers` 4.5x and 5 make of `FLAT`."""
    text = {key: value for key, value in copy.deepcopy(FLAT).items() if key not in ROOT_KEYS}
    root = {key: value for key, value in copy.deepcopy(FLAT).items() if key in ROOT_KEYS}
    root |= {"text_config": text, "transformers_version": f"{version}.5.0"}
    text["model_type"] = "qwen2_5_vl_text"
    root["vision_config"]["model_type"] = "qwen2_5_vl_vision"
    root["vision_config"]["in_channels"] = root["vision_config"].pop("in_chans")
    text["dtype"] = root["dtype"] = text.pop("torch_dtype")
    if version == 4:
        text["rope_scaling"] |= {"type": "default", "rope_type": "default"}
        return root
    root["tie_word_embeddings"] = text.pop("tie_word_embeddings")
    section = text.pop("rope_scaling")["mrope_section"]
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": text.pop("rope_theta"),
        "mrope_section": section,
    }
    text["pad_token_id"] = None
    root["vision_config"]["rope_parameters"] = {"rope_type": "axial", "rope_theta": 10000.0}
    return root


LAYOUTS = {"flat": FLAT, "nested 4": nested(version=4), "nested 5": nested(version=5)}


def write(directory, name="config.json", **values):
    (directory / name).write_text(json.dumps(values))
    return directory


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reads_every_layout(tmp_path, layout):
    assert hf_config.read_config(write(tmp_path, **LAYOUTS[layout])) == PRESETS["3b"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trip_keeps_layout_and_foreign_fields(tmp_path, layout):
    source = LAYOUTS[layout]
    config = hf_config.read_config(write(tmp_path, **source))
    written = hf_export.model_config(config, dtype="bfloat16", base=source)
    vision = written["vision_config"]
    if layout == "flat":
        assert vision.pop("in_channels") == 3  # spelt as `transformers` reads it
    assert written == source
    assert hf_export.model_config(config, dtype="float32", base=source) != source


@pytest.mark.parametrize("preset", PRESETS)
def test_written_without_a_source_reads_back(tmp_path, preset):
    config = PRESETS[preset]
    write(tmp_path, **hf_export.model_config(config, dtype="bfloat16"))
    assert hf_config.read_config(tmp_path) == config


@pytest.mark.parametrize("layout", LAYOUTS)
def test_changed_config_over_an_old_source_wins(tmp_path, layout):
    config = dataclasses.replace(
        PRESETS["7b"],
        text=dataclasses.replace(PRESETS["7b"].text, rope_theta=5e5, rms_norm_eps=1e-5),
        initializer_range=0.01,
        image_token_id=7,
        eos_token_id=9,
    )
    write(tmp_path, **hf_export.model_config(config, dtype="float32", base=LAYOUTS[layout]))
    assert hf_config.read_config(tmp_path) == config


@pytest.mark.torch
@pytest.mark.parametrize("base", [None, *LAYOUTS])
def test_transformers_reads_the_same(tmp_path, base):
    transformers = pytest.importorskip("transformers")
    config = PRESETS["tiny"]
    values = hf_export.model_config(config, dtype="float32", base=base and LAYOUTS[base])
    read = transformers.AutoConfig.from_pretrained(write(tmp_path, **values))
    text, vision = read.text_config, read.vision_config
    for key in (*hf_config.TEXT_SIZES, "num_key_value_heads", "rms_norm_eps"):
        assert getattr(text, key) == getattr(config.text, key), key
    for key in (*hf_config.VISION_SIZES, *hf_config.VISION_DEFAULTS):
        assert getattr(vision, key) == getattr(config.vision, key), key
    assert text.rope_parameters["rope_theta"] == config.text.rope_theta
    assert tuple(text.rope_parameters["mrope_section"]) == config.text.mrope_section
    assert tuple(vision.fullatt_block_indexes) == config.vision.fullatt_block_indexes
    assert read.tie_word_embeddings is config.text.tie_word_embeddings
    assert (read.image_token_id, text.eos_token_id) == (config.image_token_id, config.eos_token_id)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen2_vl"}, "model_type is 'qwen2_vl', expected 'qwen2_5_vl'"),
        ({"model_type": None}, "expected 'qwen2_5_vl'"),
        ({"hidden_size": "2048"}, "hidden_size is '2048', expected a whole number"),
        ({"hidden_size": 2048.5}, "hidden_size is 2048.5"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"num_hidden_layers": None}, "num_hidden_layers is missing"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', expected 'silu'"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes', expected true or false"),
        ({"rope_scaling": {"type": "yarn", "mrope_section": [16, 24, 24]}}, "type is 'yarn'"),
        ({"rope_scaling": None}, "mrope_section is missing"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, "a", 24]}}, "list of int"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24]}}, "mrope_section"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 25]}}, "mrope_section"),
        ({"image_token_id": 200_000}, "image_token_id is 200000"),
        ({"vision_config": None}, "vision_config is missing"),
        ({"vision_config": FLAT["vision_config"] | {"in_channels": 1}}, "in_channels is 1"),
        ({"vision_config": FLAT["vision_config"] | {"num_heads": 0}}, "num_heads"),
        ({"vision_config": FLAT["vision_config"] | {"fullatt_block_indexes": [40]}}, "fullatt"),
    ],
)
def test_refuses_what_it_cannot_run(tmp_path, change, message):
    with pytest.raises(UserError) as caught:
        hf_config.read_config(write(tmp_path, **(FLAT | change)))
    assert message in str(caught.value)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_padding_and_stop_tokens_of_the_generation_config(tmp_path):
    values = {key: value for key, value in FLAT.items() if key != "eos_token_id"}
    write(tmp_path, **values)
    write(tmp_path, "generation_config.json", pad_token_id=11, eos_token_id=[12, 11])
    config = hf_config.read_config(tmp_path)
    assert (config.pad_token_id, config.eos_token_id) == (11, 12)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("preprocessor_config.json", {"min_pixels": 100, "max_pixels": 900}, (100, 900)),
        (
            "preprocessor_config.json",
            {"size": {"shortest_edge": 100, "longest_edge": 900}},
            (100, 900),
        ),
        (
            "processor_config.json",
            {"image_processor": {"size": {"shortest_edge": 7, "longest_edge": 900}}},
            (7, 900),
        ),
        ("preprocessor_config.json", {}, (3136, 12845056)),
        ("other.json", {}, (3136, 12845056)),
    ],
)
def test_image_bounds(tmp_path, name, values, expected):
    images = hf_config.read_image_config(write(tmp_path, name, **values))
    assert (images.min_pixels, images.max_pixels) == expected


def test_image_bounds_that_make_no_range(tmp_path):
    write(tmp_path, "preprocessor_config.json", min_pixels=900, max_pixels=100)
    with pytest.raises(UserError, match="min_pixels=900"):
        hf_config.read_image_config(tmp_path)


def test_pixel_statistics_come_from_the_processor(tmp_path):
    write(tmp_path, **FLAT)
    write(tmp_path, "preprocessor_config.json", image_mean=[0.5, 0.25, 0], image_std=[1, 0.5, 0.5])
    vision = hf_config.read_config(tmp_path).vision
    assert (vision.image_mean, vision.image_std) == ((0.5, 0.25, 0.0), (1.0, 0.5, 0.5))
    written = hf_export.preprocessor_config(hf_config.read_config(tmp_path), ImageConfig())
    assert (written["image_mean"], written["image_std"]) == ([0.5, 0.25, 0.0], [1.0, 0.5, 0.5])
    write(tmp_path, "preprocessor_config.json", image_mean=[0.5, 0.25])
    with pytest.raises(UserError, match="image_mean has 2"):
        hf_config.read_config(tmp_path)
