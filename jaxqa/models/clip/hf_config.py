"""`config.json` and `preprocessor_config.json` of CLIP and SigLIP, to and from `ClipConfig`."""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxqa.errors import UserError
from jaxqa.files import read_json
from jaxqa.models.clip.config import (
    CLIP_MEAN,
    CLIP_STD,
    SIGLIP_MEAN,
    SIGLIP_STD,
    ClipConfig,
    TextConfig,
    VisionConfig,
)

# Released files leave out what equals the defaults of the `transformers` classes.
_ENCODER = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
VISION_DEFAULTS: dict[str, dict[str, Any]] = {
    "clip": dict(zip(_ENCODER, (768, 3072, 12, 12), strict=True))
    | {"image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "siglip": dict(zip(_ENCODER, (768, 3072, 12, 12), strict=True))
    | {
        "image_size": 224,
        "patch_size": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    },
}
TEXT_DEFAULTS: dict[str, dict[str, Any]] = {
    "clip": dict(zip(_ENCODER, (512, 2048, 12, 8), strict=True))
    | {
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "eos_token_id": 49407,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
    "siglip": dict(zip(_ENCODER, (768, 3072, 12, 12), strict=True))
    | {
        "vocab_size": 32_000,
        "max_position_embeddings": 64,
        "eos_token_id": 49407,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    },
}
PROJECTION_DIM = 512

_FAMILY: dict[str, str] = {
    "clip": "clip",
    "clip_vision_model": "clip",
    "siglip": "siglip",
    "siglip_vision_model": "siglip",
}
_ARCHITECTURES = {
    ("clip", True): "CLIPModel",
    ("clip", False): "CLIPVisionModelWithProjection",
    ("siglip", True): "SiglipModel",
    ("siglip", False): "SiglipVisionModel",
}
_BICUBIC = 3  # PIL.Image.Resampling.BICUBIC


def read_config(directory: str | Path) -> ClipConfig:
    """The architecture of a checkpoint directory, its pixel statistics included.

    Raises:
      UserError: unreadable or wrong JSON, another architecture, an unsupported variant.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"model directory {directory} does not exist")
    path = directory / "config.json"
    values = read_json(path)
    family = _FAMILY.get(str(values.get("model_type")))
    if family is None:
        raise UserError(
            f"{path}: model_type is {values.get('model_type')!r}, expected one of "
            f"{', '.join(_FAMILY)}; give a CLIP or SigLIP directory"
        )
    processor = directory / "preprocessor_config.json"
    prepared = read_json(processor) if processor.is_file() else {}
    statistics = _statistics(prepared, family, str(processor))
    try:
        config = _config(values, family, where=str(path), statistics=statistics)
    except (ValueError, TypeError) as error:  # the dataclasses check what belongs together
        raise UserError(f"{path}: {error}") from error
    _check_preparation(prepared, config, str(processor))
    return config


def _config(
    values: Mapping[str, Any], family: str, *, where: str, statistics: Mapping[str, Any]
) -> ClipConfig:
    both = "vision_config" in values or "vision_config_dict" in values
    vision = _section(values, "vision_config", where) if both else values
    if vision.get("vision_use_head", True) is not True or vision.get("num_channels", 3) != 3:
        raise UserError(f"{where}: expected an image tower with a pooling head and 3 channels")
    size = _typed(vision, VISION_DEFAULTS[family], where)
    text = None
    if both:
        given = _section(values, "text_config", where)
        text = TextConfig(**_typed(given, TEXT_DEFAULTS[family], where))
        if family == "siglip":
            width = given.get("projection_size") or text.hidden_size
            if width != size["hidden_size"]:
                raise UserError(
                    f"{where}: text projection_size is {width}, expected the image tower's "
                    f"hidden_size ({size['hidden_size']})"
                )
    projection = {"projection_dim": PROJECTION_DIM}
    embedding = size["hidden_size"]
    if family == "clip":
        embedding = _typed(values, projection, where)["projection_dim"]
    return ClipConfig(
        vision=VisionConfig(**size, **statistics),
        text=text,
        projection_dim=embedding,
        family=family,
    )


def _section(values: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    """A tower's object; the first releases have it under `NAME_dict`, which wins."""
    section = values.get(f"{name}_dict") or values.get(name) or {}
    if not isinstance(section, Mapping):
        raise UserError(f"{where}: {name} is {section!r}, expected an object")
    return section


def _typed(values: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The named fields, or their defaults; UserError for one of another type."""
    found = {}
    for key, default in defaults.items():
        value = default if values.get(key) is None else values[key]
        kinds = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise UserError(
                f"{where}: {key} is {value!r}, expected {type(default).__name__} such as {default}"
            )
        found[key] = type(default)(value)
    return found


def _statistics(values: Mapping[str, Any], family: str, where: str) -> dict[str, Any]:
    """Mean and deviation of pixels."""
    mean, std = (CLIP_MEAN, CLIP_STD) if family == "clip" else (SIGLIP_MEAN, SIGLIP_STD)
    found = {}
    for key, default in (("image_mean", mean), ("image_std", std)):
        numbers = values.get(key, default)
        if (
            not isinstance(numbers, list | tuple)
            or len(numbers) != 3
            or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
        ):
            raise UserError(f"{where}: {key} is {numbers!r}, expected three numbers")
        found[key] = tuple(float(number) for number in numbers)
    return found


def _check_preparation(values: Mapping[str, Any], config: ClipConfig, where: str) -> None:
    """Raise UserError for an image preparation that jaxqa does not do."""
    side = config.vision.image_size
    if values.get("resample", _BICUBIC) != _BICUBIC:
        raise UserError(
            f"{where}: resample is {values['resample']!r}, expected {_BICUBIC} (bicubic); other "
            "filters are not supported"
        )
    for key in ("size", "crop_size"):
        size = values.get(key, side)
        sides = set(size.values()) if isinstance(size, Mapping) else {size}
        if sides != {side}:
            raise UserError(
                f"{where}: {key} is {size!r}, expected the image tower's image_size "
                f"({side}); other sizes are not supported"
            )


def model_config(
    config: ClipConfig, *, dtype: str, base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The `config.json` of an exported model; fields of `base` that mean nothing here are kept."""
    whole = config.text is not None
    base = copy.deepcopy(dict(base or {}))
    if whole != ("vision_config" in base):  # of the other layout
        base = {}
    base.pop("vision_config_dict", None)
    base.pop("text_config_dict", None)
    base |= {
        "architectures": [_ARCHITECTURES[config.family, whole]],
        "model_type": config.family if whole else f"{config.family}_vision_model",
        "torch_dtype": dtype,
    }
    base.pop("dtype", None)
    if config.family == "clip":
        base["projection_dim"] = config.projection_dim
    vision = _fields(config.vision, leave=("image_mean", "image_std"))
    if not whole:
        return base | vision
    text = _fields(config.text)
    text |= (
        {"projection_size": config.projection_dim}
        if config.is_siglip
        else {"projection_dim": config.projection_dim}
    )
    kind = f"{config.family}_vision_model"
    base["vision_config"] = {**base.get("vision_config", {}), "model_type": kind, **vision}
    kind = f"{config.family}_text_model"
    base["text_config"] = {**base.get("text_config", {}), "model_type": kind, **text}
    if config.family == "clip":
        base["vision_config"]["projection_dim"] = config.projection_dim
    return base


def _fields(part: Any, leave: tuple[str, ...] = ()) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(part).items() if key not in leave}


def preprocessor_config(config: ClipConfig) -> dict[str, Any]:
    """The `preprocessor_config.json` under which HF's image processor feeds the same pixels."""
    side, vision = config.vision.image_size, config.vision
    square = {"height": side, "width": side}
    common = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "resample": _BICUBIC,
        "rescale_factor": 1 / 255,
        "image_mean": list(vision.image_mean),
        "image_std": list(vision.image_std),
    }
    if config.is_siglip:
        return {"image_processor_type": "SiglipImageProcessor", "size": square, **common}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": side},
        "do_center_crop": True,
        "crop_size": square,
        **common,
    }
