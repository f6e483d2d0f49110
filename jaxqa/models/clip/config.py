"""Architecture of CLIP and SigLIP: what a checkpoint fixes, and nothing about a run."""

import dataclasses

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh")
FAMILIES = ("clip", "siglip")

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SIGLIP_MEAN = SIGLIP_STD = (0.5, 0.5, 0.5)

LEGACY_EOS = 2
"""The value that OpenAI's first Hugging Face configs have in place of their end-of-text token; the
text is then pooled at the largest id, which is that token's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """A stack of pre-norm transformer layers.

    Attributes:
        hidden_size: width.
        intermediate_size: width of the feed-forward layer.
        num_hidden_layers: number of layers.
        num_attention_heads: heads; they divide the width.
        hidden_act: the feed-forward layer's nonlinearity, one of `ACTIVATIONS`.
        layer_norm_eps: added to the variance in every norm.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not value > 0:
                raise ValueError(
                    f"{type(self).__name__}.{field.name} is {value}; it must be positive"
                )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"{type(self).__name__}.hidden_size is {self.hidden_size}; "
                f"it must be a multiple of num_attention_heads ({self.num_attention_heads})"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(
                f"{type(self).__name__}.hidden_act is {self.hidden_act!r}; "
                f"it must be one of {', '.join(ACTIVATIONS)}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig(EncoderConfig):
    """The image tower.

    Attributes:
        image_size: side of the square image that the tower sees.
        patch_size: side of a patch; pixels beyond the last whole patch are ignored.
        image_mean: per-channel mean of pixels scaled to [0, 1].
        image_std: per-channel standard deviation of pixels scaled to [0, 1].
    """

    image_size: int
    patch_size: int
    image_mean: tuple[float, float, float] = CLIP_MEAN
    image_std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size < self.patch_size:
            raise ValueError(
                f"VisionConfig.image_size is {self.image_size}; "
                f"it must be at least patch_size ({self.patch_size})"
            )
        if not all(std > 0 for std in self.image_std):
            raise ValueError(f"VisionConfig.image_std is {self.image_std}; it must be positive")

    @property
    def grid(self) -> int:
        """Patches per side."""
        return self.image_size // self.patch_size

    @property
    def patch_values(self) -> int:
        """Pixel values of a patch."""
        return 3 * self.patch_size**2


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig(EncoderConfig):
    """The text tower.

    Attributes:
        vocab_size: rows of the embedding table.
        max_position_embeddings: length of every text, its padding included.
        eos_token_id: the token at whose first place CLIP reads a text's embedding; see
            `LEGACY_EOS`. SigLIP reads the last place, whatever it holds.
    """

    vocab_size: int
    max_position_embeddings: int = 77
    eos_token_id: int = 49407


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """One or both towers.

    Attributes:
        vision: the image tower.
        text: the text tower; None for an image tower on its own.
        projection_dim: width of the embeddings. SigLIP has no image projection, so it is the
            image tower's width there.
        family: "clip", or "siglip": patches with a bias and without a class token, attention
            pooling, a text tower without causal mask that reads the last place, a logit bias.
    """

    vision: VisionConfig
    text: TextConfig | None
    projection_dim: int
    family: str = "clip"

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"ClipConfig.family is {self.family!r}; expected clip or siglip")
        if self.projection_dim < 1:
            raise ValueError(f"ClipConfig.projection_dim is {self.projection_dim}; expected >= 1")
        if self.family == "siglip" and self.projection_dim != self.vision.hidden_size:
            raise ValueError(
                f"ClipConfig.projection_dim is {self.projection_dim}; for SigLIP it must equal "
                f"vision.hidden_size ({self.vision.hidden_size})"
            )

    @property
    def is_siglip(self) -> bool:
        """Whether the family is SigLIP."""
        return self.family == "siglip"

    def image_only(self) -> "ClipConfig":
        """The same image tower without a text tower."""
        return dataclasses.replace(self, text=None)


def _openai(
    *, width: int, layers: int, image_size: int, patch_size: int, text_width: int, embedding: int
) -> ClipConfig:
    """Heads are 64 wide in both towers, and the text tower has 12 layers, in every release."""
    return ClipConfig(
        vision=VisionConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            image_size=image_size,
            patch_size=patch_size,
        ),
        text=TextConfig(
            hidden_size=text_width,
            intermediate_size=4 * text_width,
            num_hidden_layers=12,
            num_attention_heads=text_width // 64,
            vocab_size=49408,
        ),
        projection_dim=embedding,
    )


def _siglip(
    *,
    width: int,
    hidden: int,
    layers: int,
    heads: int,
    image: tuple[int, int],
) -> ClipConfig:
    """Both towers have the same size in every release; `image` is side and patch side."""
    encoder = {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    }
    vision = VisionConfig(
        **encoder,
        image_size=image[0],
        patch_size=image[1],
        image_mean=SIGLIP_MEAN,
        image_std=SIGLIP_STD,
    )
    text = TextConfig(**encoder, vocab_size=32_000, max_position_embeddings=64)
    return ClipConfig(vision=vision, text=text, projection_dim=width, family="siglip")


PRESETS: dict[str, ClipConfig] = {
    "tiny": ClipConfig(
        vision=VisionConfig(
            hidden_size=96,
            intermediate_size=384,
            num_hidden_layers=3,
            num_attention_heads=3,
            image_size=96,
            patch_size=12,
        ),
        text=TextConfig(
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=2,
            vocab_size=1024,
            eos_token_id=1,
        ),
        projection_dim=64,
    ),
    "vit-b-32": _openai(
        width=768, layers=12, image_size=224, patch_size=32, text_width=512, embedding=512
    ),
    "vit-b-16": _openai(
        width=768, layers=12, image_size=224, patch_size=16, text_width=512, embedding=512
    ),
    "vit-l-14": _openai(
        width=1024, layers=24, image_size=224, patch_size=14, text_width=768, embedding=768
    ),
    "vit-l-14-336": _openai(
        width=1024, layers=24, image_size=336, patch_size=14, text_width=768, embedding=768
    ),
    "siglip-b-16": _siglip(width=768, hidden=3072, layers=12, heads=12, image=(224, 16)),
    "siglip-so400m-14-384": _siglip(width=1152, hidden=4304, layers=27, heads=16, image=(384, 14)),
}
"""Released sizes (the configs on the Hugging Face Hub) and a tiny one for laptops and tests."""
