"""Hugging Face `config.json` in both its layouts, as `Qwen2_5_VLConfig`.

Flat: the Hub's checkpoints keep the text fields at the top, beside `vision_config`. Nested: newer
`transformers` writes them into `text_config`, the rotary ones into `rope_parameters`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxqa.errors import UserError
from jaxqa.files import read_json
from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig, TextConfig, VisionConfig
from jaxqa.models.qwen2_5_vl.preprocess import ImageConfig

MODEL_TYPE = "qwen2_5_vl"

TEXT_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
VISION_SIZES = ("depth", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size")
VISION_DEFAULTS = {
    "patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "window_size": 112,
}
TOKEN_IDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
VISION_ROPE_THETA = 10_000.0
"""Fixed in the Hub's checkpoints; newer `transformers` writes it out."""


@dataclass(frozen=True)
class Section:
    """One object of a JSON file, read with type checks that name the file and the key."""

    values: Mapping[str, Any]
    where: str

    def section(self, key: str) -> "Section":
        """A nested object."""
        return Section(self._get(key, dict, "an object"), f"{self.where}, {key}")

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number; without a default the key must be there and not null."""
        return self._get(key, int, "a whole number", default)

    def number(self, key: str, default: float | None = None) -> float:
        """Any number."""
        return float(self._get(key, int | float, "a number", default))

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        return self._get(key, bool, "true or false", default)

    def numbers(self, key: str, kind: type, default: tuple[Any, ...] | None = None) -> tuple:
        """A list of `kind` (int or float)."""
        values = self._get(key, list | tuple, "a list", default)
        if any(isinstance(value, bool) or not isinstance(value, int | kind) for value in values):
            raise UserError(
                f"{self.where}: {key} is {values!r}, expected a list of {kind.__name__}"
            )
        return tuple(kind(value) for value in values)

    def must_be(self, key: str, allowed: tuple[Any, ...], default: Any) -> None:
        """Refuse a variant of the architecture that is not built."""
        value = self.values.get(key, default)
        if value not in allowed:
            raise UserError(
                f"{self.where}: {key} is {value!r}, expected {' or '.join(map(repr, allowed))}; "
                "this variant of Qwen2.5-VL is not supported"
            )

    def _get(self, key: str, kind: Any, name: str, default: Any = None) -> Any:
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            found = "missing" if value is None else repr(value)
            raise UserError(f"{self.where}: {key} is {found}, expected {name}")
        return value


def is_nested(values: Mapping[str, Any]) -> bool:
    """Whether a `config.json` keeps its text fields in `text_config`."""
    return isinstance(values.get("text_config"), Mapping)


def read_config(directory: str | Path) -> Qwen2_5_VLConfig:
    """The architecture and special tokens of a checkpoint directory.

    The padding id comes from `generation_config.json` and the pixel statistics from
    `preprocessor_config.json` where these files are present.

    Raises:
      UserError: unreadable or incomplete JSON, another architecture, an unsupported variant.
    """
    directory = Path(directory)
    path = directory / "config.json"
    if not directory.is_dir():
        raise UserError(f"model directory {directory} does not exist")
    root = Section(read_json(path), str(path))
    if root.values.get("model_type") != MODEL_TYPE:
        raise UserError(
            f"{path}: model_type is {root.values.get('model_type')!r}, expected {MODEL_TYPE!r}; "
            "give a Qwen2.5-VL checkpoint"
        )
    text = root.section("text_config") if is_nested(root.values) else root
    try:
        return Qwen2_5_VLConfig(
            vision=_vision_config(root.section("vision_config"), _processor(directory)),
            text=_text_config(text, tied=root.flag("tie_word_embeddings")),
            initializer_range=text.number("initializer_range", 0.02),
            **_token_ids(root, text, _optional(directory / "generation_config.json")),
        )
    except (ValueError, ZeroDivisionError) as error:  # the dataclasses check what belongs together
        raise UserError(f"{path}: {error}") from error


def _text_config(text: Section, *, tied: bool) -> TextConfig:
    text.must_be("hidden_act", ("silu",), "silu")
    text.must_be("use_sliding_window", (False, None), False)
    rope = text
    for key in ("rope_scaling", "rope_parameters"):
        if text.values.get(key) is not None:
            rope = text.section(key)
    kind = "rope_type" if "rope_type" in rope.values else "type"
    rope.must_be(kind, ("mrope", "default"), "default")
    return TextConfig(
        **{key: text.integer(key) for key in TEXT_SIZES},
        num_key_value_heads=text.integer(
            "num_key_value_heads", text.integer("num_attention_heads")
        ),
        rms_norm_eps=text.number("rms_norm_eps"),
        rope_theta=rope.number("rope_theta", text.number("rope_theta", 1e6)),
        mrope_section=_three(rope, "mrope_section"),
        # Nested files of transformers 4 have the flag in text_config only.
        tie_word_embeddings=tied or text.flag("tie_word_embeddings"),
    )


def _three(section: Section, key: str) -> tuple[int, int, int]:
    values = section.numbers(key, int)
    if len(values) != 3:
        raise UserError(f"{section.where}: {key} is {list(values)}, expected three whole numbers")
    return values[0], values[1], values[2]


def _vision_config(vision: Section, processor: Section) -> VisionConfig:
    vision.must_be("hidden_act", ("silu",), "silu")
    vision.must_be("in_channels", (3,), 3)
    if vision.values.get("rope_parameters") is not None:
        rope = vision.section("rope_parameters")
        rope.must_be("rope_theta", (VISION_ROPE_THETA,), VISION_ROPE_THETA)
    return VisionConfig(
        **{key: vision.integer(key) for key in VISION_SIZES},
        **{key: vision.integer(key, default) for key, default in VISION_DEFAULTS.items()},
        fullatt_block_indexes=vision.numbers("fullatt_block_indexes", int),
        image_mean=processor.numbers("image_mean", float, VisionConfig.image_mean),
        image_std=processor.numbers("image_std", float, VisionConfig.image_std),
    )


def _token_ids(root: Section, text: Section, generation: Section) -> dict[str, int]:
    """Special tokens; ids that a file leaves out have the released models' values."""
    ids = {key: root.integer(key, getattr(Qwen2_5_VLConfig, key)) for key in TOKEN_IDS}
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        for section in (text, root, generation):
            value = section.values.get(key)
            if value is not None:
                # A list of stop tokens begins with the end of an assistant's turn.
                first = value[0] if isinstance(value, list) and value else value
                ids[key] = Section({key: first}, section.where).integer(key)
                break
    ids.setdefault("bos_token_id", Qwen2_5_VLConfig.bos_token_id)
    ids.setdefault("eos_token_id", Qwen2_5_VLConfig.eos_token_id)
    ids.setdefault("pad_token_id", ids["bos_token_id"])
    return ids


def _optional(path: Path) -> Section:
    """A file that may be absent, as an empty section then."""
    return Section(read_json(path) if path.is_file() else {}, str(path))


def _processor(directory: Path) -> Section:
    """Image processor settings: a file of their own, or part of `processor_config.json`."""
    combined = _optional(directory / "processor_config.json")
    if combined.values.get("image_processor") is not None:
        return combined.section("image_processor")
    return _optional(directory / "preprocessor_config.json")


def read_image_config(directory: str | Path) -> ImageConfig:
    """Pixel bounds of a checkpoint's image processor; the released models' where it has none.

    Raises:
      UserError: unreadable JSON, or bounds that make no range.
    """
    processor = _processor(Path(directory))
    default = ImageConfig()
    size = processor.section("size") if processor.values.get("size") else processor
    # `min_pixels`/`max_pixels` win over `size`, as in HF Qwen2VLImageProcessor.
    low = processor.integer("min_pixels", size.integer("shortest_edge", default.min_pixels))
    high = processor.integer("max_pixels", size.integer("longest_edge", default.max_pixels))
    try:
        return ImageConfig(min_pixels=low, max_pixels=high)
    except ValueError as error:
        raise UserError(f"{processor.where}: {error}") from error
