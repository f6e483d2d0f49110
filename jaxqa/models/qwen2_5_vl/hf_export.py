"""The JSON files of an exported model: `Qwen2_5_VLConfig` as Hugging Face reads it."""

import copy
from collections.abc import Mapping
from typing import Any

from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig, TextConfig, VisionConfig
from jaxqa.models.qwen2_5_vl.hf_config import (
    MODEL_TYPE,
    TEXT_SIZES,
    TOKEN_IDS,
    VISION_DEFAULTS,
    VISION_SIZES,
    is_nested,
)
from jaxqa.models.qwen2_5_vl.preprocess import ImageConfig

ARCHITECTURE = "Qwen2_5_VLForConditionalGeneration"


def model_config(
    config: Qwen2_5_VLConfig, *, dtype: str, base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The `config.json` of an exported model.

    Flat, as on the Hub, because every `transformers` release since Qwen2.5-VL's reads that layout.
    With a nested `base` (the file the model came from) the result is nested, so that a round trip
    changes nothing; fields of `base` that mean nothing here (video, dropout) are kept.
    """
    values = copy.deepcopy(dict(base or {}))
    nested = is_nested(values)
    values |= {"architectures": [ARCHITECTURE], "model_type": MODEL_TYPE}
    values |= {key: getattr(config, key) for key in TOKEN_IDS}
    text = values["text_config"] if nested else values
    _write_text(text, config)
    values["vision_config"] = vision = _vision(config.vision, values.get("vision_config", {}))
    # transformers 4 nests the flag.
    for part in [part for part in (values, text) if "tie_word_embeddings" in part] or [values]:
        part["tie_word_embeddings"] = config.text.tie_word_embeddings
    if not {"dtype", "torch_dtype"} & values.keys():
        values["dtype" if nested else "torch_dtype"] = dtype
    for part in (values, text, vision):
        part |= {key: dtype for key in ("dtype", "torch_dtype") if key in part}
    return values


def _write_text(target: dict[str, Any], config: Qwen2_5_VLConfig) -> None:
    text = config.text
    target |= {key: getattr(text, key) for key in TEXT_SIZES}
    target |= {
        "num_key_value_heads": text.num_key_value_heads,
        "rms_norm_eps": text.rms_norm_eps,
        "hidden_act": "silu",
        "use_sliding_window": False,
        "initializer_range": config.initializer_range,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
    }
    _write_rope(target, text)


def _vision(vision: VisionConfig, base: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **base,
        "hidden_act": "silu",
        "in_channels": vision.in_channels,
        **{key: getattr(vision, key) for key in (*VISION_SIZES, *VISION_DEFAULTS)},
        "fullatt_block_indexes": list(vision.fullatt_block_indexes),
    }


def _write_rope(target: dict[str, Any], text: TextConfig) -> None:
    """Rotary fields in the form the file already has, else in the Hub's."""
    sections = list(text.mrope_section)
    if "rope_parameters" in target:
        target["rope_parameters"] = {
            "rope_type": "default",
            "rope_theta": text.rope_theta,
            "mrope_section": sections,
        }
    else:
        target["rope_theta"] = text.rope_theta
        kind = target.get("rope_scaling") or {"type": "mrope"}
        target["rope_scaling"] = {**kind, "mrope_section": sections}


def preprocessor_config(config: Qwen2_5_VLConfig, images: ImageConfig) -> dict[str, Any]:
    """The `preprocessor_config.json` under which HF's image processor feeds the same pixels."""
    vision = config.vision
    return {
        "min_pixels": images.min_pixels,
        "max_pixels": images.max_pixels,
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
        "image_mean": list(vision.image_mean),
        "image_std": list(vision.image_std),
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }


def generation_config(config: Qwen2_5_VLConfig) -> dict[str, Any]:
    """The `generation_config.json` of an exported model: tokens only, decoding is greedy."""
    stops = list(dict.fromkeys((config.eos_token_id, config.pad_token_id)))
    return {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": stops,
        "pad_token_id": config.pad_token_id,
        "do_sample": False,
    }
