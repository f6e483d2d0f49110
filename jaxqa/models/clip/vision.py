"""Image tower: pixels to one embedding per image."""

import jax.numpy as jnp
from flax import nnx

from jaxqa.models.clip.config import ClipConfig, VisionConfig
from jaxqa.models.clip.layers import Encoder, FeedForward, join_heads, split_heads
from jaxqa.nn.attention import Segment, attend
from jaxqa.nn.embedding import Embedding
from jaxqa.nn.linear import Linear, draw
from jaxqa.nn.norm import LayerNorm
from jaxqa.nn.stack import Remat
from jaxqa.typing import Array, Float, Shaped

_STDDEV = 0.02  # HF `initializer_range` of the embeddings


class VisionEmbeddings(nnx.Module):
    """Patches, class token and positions; HF `CLIPVisionEmbeddings`, `SiglipVisionEmbeddings`."""

    def __init__(self, config: ClipConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        vision = config.vision
        width, count = vision.hidden_size, vision.grid**2
        self.config = vision
        self.patch_embedding = Linear(
            vision.patch_values,
            width,
            use_bias=config.is_siglip,
            stddev=_STDDEV,
            dtype=dtype,
            rngs=rngs,
        )
        self.has_class = not config.is_siglip
        if self.has_class:
            class_embedding = draw(rngs, (width,), stddev=width**-0.5, dtype=dtype)
            self.class_embedding = nnx.Param(class_embedding)
        positions = count + self.has_class
        self.position_embedding = Embedding(
            positions, width, stddev=_STDDEV, dtype=dtype, rngs=rngs
        )

    def __call__(
        self, pixels: Shaped[Array, "B h w 3"], *, dtype: jnp.dtype
    ) -> Float[Array, "B S D"]:
        """Embed raw pixels in 0..255."""
        x = self.patch_embedding(patches(normalise(pixels, self.config), self.config).astype(dtype))
        if self.has_class:
            first = self.class_embedding[...].astype(dtype)[None, None, :]
            first = jnp.broadcast_to(first, (x.shape[0], 1, x.shape[-1]))
            x = jnp.concatenate([first, x], axis=1)
        return x + self.position_embedding.embedding[...].astype(dtype)[None]


def normalise(pixels: Shaped[Array, "B h w 3"], config: VisionConfig) -> Float[Array, "B h w 3"]:
    """Turn raw pixels in 0..255, whole or not, into what the tower was trained on."""
    mean = jnp.asarray(config.image_mean, jnp.float32).reshape(1, 1, 1, 3)
    std = jnp.asarray(config.image_std, jnp.float32).reshape(1, 1, 1, 3)
    return (pixels.astype(jnp.float32) / 255.0 - mean) / std


def patches(x: Float[Array, "B h w 3"], config: VisionConfig) -> Float[Array, "B Y C"]:
    """Cut images into patches, row by row; values in each are (channel, row, column)."""
    grid, side = config.grid, config.patch_size
    x = x[:, : grid * side, : grid * side].reshape(x.shape[0], grid, side, grid, side, 3)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(x.shape[0], grid * grid, -1)


class PoolingAttention(nnx.Module):
    """Keys and values of every token, one learned query; the fused layout of torch."""

    def __init__(self, config: VisionConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        width = config.hidden_size
        options = {"use_bias": True, "stddev": width**-0.5, "dtype": dtype, "rngs": rngs}
        self.num_heads = config.num_attention_heads
        self.in_proj = Linear(width, 3 * width, **options)
        self.out_proj = Linear(width, width, **options)

    def __call__(
        self, probe: Float[Array, "B 1 D"], x: Float[Array, "B S D"]
    ) -> Float[Array, "B 1 D"]:
        """Gather what the probe asks for."""
        query = jnp.split(self.in_proj(probe), 3, axis=-1)[0]
        key, value = jnp.split(self.in_proj(x), 3, axis=-1)[1:]
        query, key, value = (split_heads(part, self.num_heads) for part in (query, key, value))
        seen = jnp.ones((1, 1, 1, x.shape[1]), bool)
        return self.out_proj(join_heads(attend(query, Segment(key, value, seen))))


class PoolingHead(nnx.Module):
    """Attention pooling; HF `SiglipMultiheadAttentionPoolingHead`."""

    def __init__(self, config: VisionConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        width = config.hidden_size
        self.probe = nnx.Param(draw(rngs, (1, 1, width), stddev=width**-0.5, dtype=dtype))
        self.attention = PoolingAttention(config, dtype=dtype, rngs=rngs)
        self.layernorm = LayerNorm(width, epsilon=config.layer_norm_eps, dtype=dtype)
        self.mlp = FeedForward(config, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B D"]:
        """Pool the tokens of each image."""
        probe = self.probe[...].astype(x.dtype)
        probe = jnp.broadcast_to(probe, (x.shape[0], 1, x.shape[-1]))
        pooled = self.attention(probe, x)
        return (pooled + self.mlp(self.layernorm(pooled)))[:, 0]


class VisionModel(nnx.Module):
    """Pixels to one vector; HF `CLIPVisionModel`, `SiglipVisionModel`."""

    def __init__(self, config: ClipConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        vision = config.vision
        norm = {"epsilon": vision.layer_norm_eps, "dtype": dtype}
        self.embeddings = VisionEmbeddings(config, dtype=dtype, rngs=rngs)
        self.is_siglip = config.is_siglip
        if not self.is_siglip:
            self.pre_layrnorm = LayerNorm(vision.hidden_size, **norm)  # named so in HF
        self.encoder = Encoder(vision, dtype=dtype, rngs=rngs)
        self.post_layernorm = LayerNorm(vision.hidden_size, **norm)
        if self.is_siglip:
            self.head = PoolingHead(vision, dtype=dtype, rngs=rngs)

    def tokens(
        self, pixels: Shaped[Array, "B h w 3"], *, dtype: jnp.dtype
    ) -> Float[Array, "B S D"]:
        """Return what enters the first layer."""
        x = self.embeddings(pixels, dtype=dtype)
        return x if self.is_siglip else self.pre_layrnorm(x)

    def __call__(
        self, pixels: Shaped[Array, "B h w 3"], *, dtype: jnp.dtype, remat: Remat
    ) -> Float[Array, "B D"]:
        """Return one vector per image."""
        x = self.tokens(pixels, dtype=dtype)
        x = self.encoder(x, everything(x), remat=remat)
        if self.is_siglip:
            return self.head(self.post_layernorm(x))
        return self.post_layernorm(x[:, 0])


def everything(x: Float[Array, "B S D"]) -> Array:
    """The mask under which every token sees every other."""
    return jnp.ones((1, 1, 1, x.shape[1]), bool)


class ImageTower(nnx.Module):
    """Image model and projection under HF's names."""

    def __init__(self, config: ClipConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.vision_model = VisionModel(config, dtype=dtype, rngs=rngs)
        self.has_projection = not config.is_siglip
        if self.has_projection:
            width = config.vision.hidden_size
            self.visual_projection = Linear(
                width,
                config.projection_dim,
                use_bias=False,
                stddev=width**-0.5,
                dtype=dtype,
                rngs=rngs,
            )

    def __call__(
        self, pixels: Shaped[Array, "B h w 3"], *, dtype: jnp.dtype, remat: Remat
    ) -> Float[Array, "B E"]:
        """Return embeddings, of any length."""
        x = self.vision_model(pixels, dtype=dtype, remat=remat)
        return self.visual_projection(x) if self.has_projection else x
