"""Text tower: token ids to one embedding per text."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxqa.models.clip.config import LEGACY_EOS, ClipConfig, TextConfig
from jaxqa.models.clip.layers import Encoder
from jaxqa.nn.embedding import Embedding
from jaxqa.nn.linear import Linear
from jaxqa.nn.norm import LayerNorm
from jaxqa.nn.stack import Remat
from jaxqa.typing import Array, Bool, Float, Int

_STDDEV = 0.02  # HF `CLIPPreTrainedModel._init_weights`


class TextEmbeddings(nnx.Module):
    """Tokens and positions; HF `CLIPTextEmbeddings`, `SiglipTextEmbeddings`."""

    def __init__(self, config: TextConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        options = {"stddev": _STDDEV, "dtype": dtype, "rngs": rngs}
        self.token_embedding = Embedding(config.vocab_size, config.hidden_size, **options)
        self.position_embedding = Embedding(
            config.max_position_embeddings, config.hidden_size, **options
        )

    def __call__(self, token_ids: Int[Array, "B T"], *, dtype: jnp.dtype) -> Float[Array, "B T D"]:
        """Embed token ids."""
        positions = self.position_embedding.embedding[...][: token_ids.shape[1]]
        return self.token_embedding(token_ids, dtype=dtype) + positions.astype(dtype)[None]


class TextModel(nnx.Module):
    """Token ids to one vector; HF `CLIPTextModel`, `SiglipTextModel`."""

    def __init__(self, config: ClipConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        text = _text(config)
        self.eos_token_id = text.eos_token_id
        self.is_siglip = config.is_siglip
        self.embeddings = TextEmbeddings(text, dtype=dtype, rngs=rngs)
        self.encoder = Encoder(text, dtype=dtype, rngs=rngs)
        self.final_layer_norm = LayerNorm(
            text.hidden_size, epsilon=text.layer_norm_eps, dtype=dtype
        )
        if self.is_siglip:
            self.head = Linear(
                text.hidden_size,
                config.projection_dim,
                use_bias=True,
                stddev=text.hidden_size**-0.5,
                dtype=dtype,
                rngs=rngs,
            )

    def mask(self, length: int) -> Bool[Array, "1 1 _ T"]:
        """Who sees whom: the past in CLIP, everything (padding included) in SigLIP."""
        seen = np.ones((1, length), bool) if self.is_siglip else np.tri(length, dtype=bool)
        return jnp.asarray(seen)[None, None]

    def __call__(
        self, token_ids: Int[Array, "B T"], *, dtype: jnp.dtype, remat: Remat
    ) -> Float[Array, "B D"]:
        """Return one vector per text."""
        x = self.embeddings(token_ids, dtype=dtype)
        x = self.encoder(x, self.mask(token_ids.shape[1]), remat=remat)
        if self.is_siglip:
            return self.head(self.final_layer_norm(x[:, -1]))
        place = token_ids if self.eos_token_id == LEGACY_EOS else token_ids == self.eos_token_id
        place = jnp.argmax(place, axis=1)[:, None, None]  # the first of several
        return self.final_layer_norm(jnp.take_along_axis(x, place, axis=1, mode="clip")[:, 0])


class TextTower(nnx.Module):
    """Text model and projection under HF's names."""

    def __init__(self, config: ClipConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.text_model = TextModel(config, dtype=dtype, rngs=rngs)
        self.has_projection = not config.is_siglip
        if self.has_projection:
            width = _text(config).hidden_size
            self.text_projection = Linear(
                width,
                config.projection_dim,
                use_bias=False,
                stddev=width**-0.5,
                dtype=dtype,
                rngs=rngs,
            )

    def __call__(
        self, token_ids: Int[Array, "B T"], *, dtype: jnp.dtype, remat: Remat
    ) -> Float[Array, "B E"]:
        """Return embeddings, of any length."""
        x = self.text_model(token_ids, dtype=dtype, remat=remat)
        return self.text_projection(x) if self.has_projection else x


def _text(config: ClipConfig) -> TextConfig:
    if config.text is None:
        raise ValueError("this model is an image tower only; texts need a config with a text tower")
    return config.text
