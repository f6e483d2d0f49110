"""Architecture of Qwen2.5-VL: what a checkpoint fixes, and nothing about a run."""

import dataclasses

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def _require_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not value > 0:
            raise ValueError(f"{type(config).__name__}.{name} is {value}; it must be positive")


def _require_multiple(config: object, name: str, divisor_name: str) -> None:
    value, divisor = getattr(config, name), getattr(config, divisor_name)
    if value % divisor:
        raise ValueError(
            f"{type(config).__name__}.{name} is {value}; "
            f"it must be a multiple of {divisor_name} ({divisor})"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The vision tower.

    Attributes:
        depth: number of blocks.
        hidden_size: width of a patch.
        intermediate_size: width of the gated feed-forward layer.
        num_heads: attention heads; the head width must be a multiple of 4 for the 2-D rotary.
        out_hidden_size: width of a merged token, equal to the text tower's.
        fullatt_block_indexes: blocks that attend to the whole image; the others attend inside
            windows.
        patch_size: side of a patch in pixels.
        temporal_patch_size: frames in one patch; a still image repeats its frame.
        spatial_merge_size: side of the square of patches that becomes one text token.
        window_size: side of an attention window in pixels.
        in_channels: colour channels.
        image_mean: per-channel mean of pixels scaled to [0, 1].
        image_std: per-channel standard deviation of pixels scaled to [0, 1].
    """

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    out_hidden_size: int
    fullatt_block_indexes: tuple[int, ...]
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    window_size: int = 112
    in_channels: int = 3
    image_mean: tuple[float, ...] = CLIP_MEAN
    image_std: tuple[float, ...] = CLIP_STD

    def __post_init__(self) -> None:
        _require_positive(self, "depth", "hidden_size", "intermediate_size", "num_heads")
        _require_positive(self, "out_hidden_size", "patch_size", "temporal_patch_size")
        _require_positive(self, "spatial_merge_size", "window_size", "in_channels")
        _require_multiple(self, "hidden_size", "num_heads")
        _require_multiple(self, "window_size", "merged_size")
        if self.head_dim % 4:
            raise ValueError(f"vision head width is {self.head_dim}; it must be a multiple of 4")
        indexes = self.fullatt_block_indexes
        if list(indexes) != sorted(set(indexes)) or not set(indexes) <= set(range(self.depth)):
            raise ValueError(
                f"VisionConfig.fullatt_block_indexes is {indexes}; "
                f"it must be increasing block numbers from 0 to {self.depth - 1}"
            )
        if not len(self.image_mean) == len(self.image_std) == self.in_channels:
            raise ValueError(
                f"image_mean has {len(self.image_mean)} values, image_std {len(self.image_std)}; "
                f"both need one per channel ({self.in_channels})"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def merged_size(self) -> int:
        """Side in pixels of what one text token sees; image sides are multiples of it."""
        return self.patch_size * self.spatial_merge_size

    @property
    def merge_unit(self) -> int:
        """Patches per merged token."""
        return self.spatial_merge_size**2

    @property
    def window_units(self) -> int:
        """Side of a window in merged tokens."""
        return self.window_size // self.merged_size

    @property
    def merged_per_window(self) -> int:
        """Merged tokens in a full window."""
        return self.window_units**2

    @property
    def patches_per_window(self) -> int:
        """Patches in a full window, P."""
        return self.merged_per_window * self.merge_unit

    @property
    def patch_values(self) -> int:
        """Pixel values in one frame of a patch, C."""
        return self.in_channels * self.patch_size**2


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The text tower.

    Attributes:
        vocab_size: rows of the embedding table.
        hidden_size: model width.
        intermediate_size: width of the gated feed-forward layer.
        num_hidden_layers: number of layers.
        num_attention_heads: query heads.
        num_key_value_heads: key and value heads, shared by groups of query heads.
        mrope_section: how many rotary frequencies turn with the time, row and column position;
            they add up to half the head width.
        tie_word_embeddings: whether the output head is the embedding table.
        rms_norm_eps: added to the mean square in every norm.
        rope_theta: base of the rotary frequencies.
        max_position_embeddings: longest sequence the model was made for.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    mrope_section: tuple[int, int, int] = (16, 24, 24)
    tie_word_embeddings: bool = False
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    max_position_embeddings: int = 128_000

    def __post_init__(self) -> None:
        _require_positive(self, "vocab_size", "hidden_size", "intermediate_size")
        _require_positive(self, "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
        _require_positive(self, "rms_norm_eps", "rope_theta", "max_position_embeddings")
        _require_multiple(self, "hidden_size", "num_attention_heads")
        _require_multiple(self, "num_attention_heads", "num_key_value_heads")
        sections = self.mrope_section
        if min(sections) < 0 or 2 * sum(sections) != self.head_dim:
            raise ValueError(
                f"TextConfig.mrope_section is {sections}; it must be three counts that add up to "
                f"half the head width ({self.head_dim})"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen2_5_VLConfig:
    """Both towers and the special tokens.

    Attributes:
        vision: the vision tower.
        text: the text tower.
        image_token_id: placeholder of one merged image token.
        video_token_id: placeholder of video; refused in prompts.
        vision_start_token_id: stands before an image's placeholders.
        vision_end_token_id: stands after them.
        bos_token_id: document token, written to exported configs.
        eos_token_id: ends an assistant turn.
        pad_token_id: fills rows up to their bucket.
        initializer_range: standard deviation of freshly drawn matrices.
    """

    vision: VisionConfig
    text: TextConfig
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653
    bos_token_id: int = 151643
    eos_token_id: int = 151645
    pad_token_id: int = 151643
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        if self.vision.out_hidden_size != self.text.hidden_size:
            raise ValueError(
                f"vision.out_hidden_size is {self.vision.out_hidden_size}; "
                f"it must equal text.hidden_size ({self.text.hidden_size})"
            )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_token_id") and not 0 <= value < self.text.vocab_size:
                raise ValueError(
                    f"Qwen2_5_VLConfig.{field.name} is {value}; "
                    f"it must be from 0 to vocab_size - 1 ({self.text.vocab_size - 1})"
                )

    @property
    def head_dims(self) -> tuple[int, int]:
        """Widths of the text tower's and of the vision tower's heads."""
        return self.text.head_dim, self.vision.head_dim


def _released(
    *,
    hidden_size: int,
    intermediate_size: int,
    layers: int,
    heads: tuple[int, int],
    vision_ffn: int,
    vocab_size: int = 152_064,
    tied: bool = False,
) -> Qwen2_5_VLConfig:
    vision = VisionConfig(
        depth=32,
        hidden_size=1280,
        intermediate_size=vision_ffn,
        num_heads=16,
        out_hidden_size=hidden_size,
        fullatt_block_indexes=(7, 15, 23, 31),
    )
    text = TextConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        tie_word_embeddings=tied,
    )
    return Qwen2_5_VLConfig(vision=vision, text=text)


_TINY = Qwen2_5_VLConfig(
    vision=VisionConfig(
        depth=2,
        hidden_size=96,
        intermediate_size=256,
        num_heads=4,
        out_hidden_size=128,
        fullatt_block_indexes=(1,),
    ),
    text=TextConfig(
        vocab_size=1024,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        mrope_section=(4, 6, 6),
        tie_word_embeddings=True,
        max_position_embeddings=4096,
    ),
    image_token_id=1014,
    video_token_id=1015,
    vision_start_token_id=1011,
    vision_end_token_id=1012,
    bos_token_id=1002,
    eos_token_id=1004,
    pad_token_id=1002,
)

PRESETS: dict[str, Qwen2_5_VLConfig] = {
    "tiny": _TINY,
    "3b": _released(
        hidden_size=2048,
        intermediate_size=11_008,
        layers=36,
        heads=(16, 2),
        vision_ffn=3420,
        vocab_size=151_936,
        tied=True,
    ),
    "7b": _released(
        hidden_size=3584, intermediate_size=18_944, layers=28, heads=(28, 4), vision_ffn=3420
    ),
    "32b": _released(
        hidden_size=5120, intermediate_size=27_648, layers=64, heads=(40, 8), vision_ffn=3456
    ),
    "72b": _released(
        hidden_size=8192, intermediate_size=29_568, layers=80, heads=(64, 8), vision_ffn=3456
    ),
}
"""Released sizes (the configs on the Hugging Face Hub) and a tiny one for laptops and tests."""
