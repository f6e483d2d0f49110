"""Where an image-text encoder comes from: a directory, or random weights for the demo."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxqa.errors import UserError
from jaxqa.models.clip import hf_config, weights
from jaxqa.models.clip.config import ClipConfig
from jaxqa.models.clip.config import VisionConfig as ClipVisionConfig
from jaxqa.models.clip.model import Clip
from jaxqa.models.clip.tokenizer import ClipTokenizer, build_demo_tokenizer, load_tokenizer
from jaxqa.models.qwen2_5_vl.config import VisionConfig
from jaxqa.models.qwen2_5_vl.patch_filters import NUM_CONSTANTS, patch_filters
from jaxqa.typing import Params


@dataclass(frozen=True, kw_only=True)
class EncoderSource:
    """The encoder before alignment.

    Attributes:
      path: Hugging Face directory of CLIP or SigLIP, with its tokenizer; excludes the next two.
      architecture: of an encoder from random weights, with a text tower whose `eos_token_id` is 1;
        its tokenizer is trained on the rationales.
      vision_filters: starting filters of an encoder from random weights: `dct` gives cosine
        patterns, as a pretrained tower would have, `random` gives noise.
      compute_dtype: dtype of matrix products; parameters, norms and softmax stay float32.
      remat: `full` recomputes each layer in the backward pass instead of keeping it.
    """

    path: str | None = None
    architecture: ClipConfig | None = None
    vision_filters: Literal["dct", "random"] = "random"
    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    remat: Literal["none", "full"] = "none"

    def __post_init__(self):
        if (self.path is None) == (self.architecture is None):
            raise ValueError("give either path or architecture")
        if self.path is not None and self.vision_filters != "random":
            raise ValueError("vision_filters is for random weights, not for a path; leave it out")
        if self.architecture is not None and self.architecture.text is None:
            raise ValueError("architecture: expected a text tower, which reads the rationales")
        if self.architecture is not None and self.architecture.is_siglip:
            raise ValueError(
                'architecture.family is "siglip"; the tokenizer that is trained for random weights '
                'is CLIP\'s: take "clip", or a path'
            )

    def model(self) -> Clip:
        """Both towers' architecture.

        Raises:
          UserError: the directory holds no encoder with a text tower.
        """
        config = self.architecture
        if self.path is not None:
            config = hf_config.read_config(self.path)
            if config.text is None:
                raise UserError(f"{self.path} holds an image tower only; expected both towers")
        assert config is not None  # checked above
        return Clip(config=config, compute_dtype=self.compute_dtype, remat=self.remat)

    def params(self, key: jax.Array) -> Params:
        """Parameters of both towers, float32; drawn with `key` if they are random.

        Raises:
          UserError: a damaged directory.
        """
        if self.path is not None:
            return weights.load_model_directory(self.path, dtype="float32")[1]
        model = self.model()
        params = jax.jit(model.init)(key)
        return (
            _with_filters(params, model.config.vision) if self.vision_filters == "dct" else params
        )

    def tokenizer(self, texts: Iterable[str]) -> ClipTokenizer:
        """The text tower's tokenizer; trained on `texts` if the weights are random.

        Raises:
          UserError: no tokenizer in the directory, or an architecture that no text fits.
        """
        if self.path is not None:
            return load_tokenizer(self.path, self.model().config)
        assert self.architecture is not None  # checked above
        try:
            return build_demo_tokenizer(texts, self.architecture)
        except ValueError as error:
            raise UserError(f"encoder.architecture: {error}") from error


def _with_filters(params: Params, vision: ClipVisionConfig) -> Params:
    """Params whose patches start from cosine filters, with channels that stay on.

    The norm after the embeddings takes away how strong a contrast is, unless some channels do not
    depend on the picture; positions hold those.
    """
    like = VisionConfig(
        depth=1,
        hidden_size=vision.hidden_size,
        intermediate_size=1,
        num_heads=1,
        out_hidden_size=1,
        fullatt_block_indexes=(0,),
        patch_size=vision.patch_size,
        window_size=2 * vision.patch_size,
        image_mean=vision.image_mean,
        image_std=vision.image_std,
    )
    try:
        filters = patch_filters(like)
    except ValueError as error:
        raise UserError(f"encoder.architecture.vision: {error}") from error
    model = params["vision_model"]
    embeddings = dict(model["embeddings"])
    table = embeddings["position_embedding"]["embedding"]
    embeddings["position_embedding"] = {"embedding": table.at[:, -NUM_CONSTANTS:].set(1.0)}
    embeddings["patch_embedding"] = embeddings["patch_embedding"] | {"kernel": jnp.asarray(filters)}
    return params | {"vision_model": model | {"embeddings": embeddings}}
