"""Vision tower: windows of patches as dense blocks, the whole image only where it must be."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxqa.models.qwen2_5_vl.config import VisionConfig
from jaxqa.models.qwen2_5_vl.inputs import Prompts
from jaxqa.nn.attention import Segment, attend
from jaxqa.nn.attention_backends import Backend
from jaxqa.nn.feed_forward import GatedFeedForward
from jaxqa.nn.linear import Linear, draw
from jaxqa.nn.norm import RMSNorm
from jaxqa.nn.rope import Rotation, axial_rotation, rotate
from jaxqa.nn.stack import Remat, scan_layers, stack_layers
from jaxqa.typing import Array, Bool, Float, UInt8

NORM_EPSILON = 1e-6  # fixed in HF `Qwen2_5_VLVisionBlock` and `Qwen2_5_VLPatchMerger`
ROPE_THETA = 10_000.0  # fixed in every released checkpoint


class PatchProjection(nnx.Module):
    """The patch convolution as a matrix per frame, [temporal C D]."""

    def __init__(self, config: VisionConfig, *, stddev: float, dtype: jnp.dtype, rngs: nnx.Rngs):
        shape = (config.temporal_patch_size, config.patch_values, config.hidden_size)
        self.kernel = nnx.Param(draw(rngs, shape, stddev=stddev, dtype=dtype))

    def __call__(self, pixels: Float[Array, "*B C"]) -> Float[Array, "*B D"]:
        """Project the normalised pixels of one frame."""
        # A still image shows the same frame at every time, so the matrices add up.
        kernel = self.kernel[...].astype(jnp.float32).sum(0).astype(pixels.dtype)
        return jnp.einsum("...c,cd->...d", pixels, kernel)


class PatchEmbed(nnx.Module):
    """Normalise raw pixels and project each patch; HF `Qwen2_5_VisionPatchEmbed`."""

    def __init__(self, config: VisionConfig, *, stddev: float, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.config = config
        self.proj = PatchProjection(config, stddev=stddev, dtype=dtype, rngs=rngs)

    def __call__(self, patches: UInt8[Array, "*B C"], *, dtype: jnp.dtype) -> Float[Array, "*B D"]:
        """Embed raw pixels, (channel, row, column) in each patch."""
        pixels_per_channel = self.config.patch_size**2
        shape = (1,) * (patches.ndim - 1) + (self.config.patch_values,)
        mean = jnp.repeat(jnp.asarray(self.config.image_mean, jnp.float32), pixels_per_channel)
        std = jnp.repeat(jnp.asarray(self.config.image_std, jnp.float32), pixels_per_channel)
        scaled = patches.astype(jnp.float32) / 255.0
        return self.proj(((scaled - mean.reshape(shape)) / std.reshape(shape)).astype(dtype))


class VisionAttention(nnx.Module):
    """Attention inside each of Z blocks of Y patches; HF `Qwen2_5_VLVisionAttention`."""

    def __init__(
        self,
        config: VisionConfig,
        *,
        stddev: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        attention: Backend,
    ):
        width = config.hidden_size
        options = {"use_bias": True, "stddev": stddev, "dtype": dtype, "rngs": rngs}
        self.num_heads = config.num_heads
        self.attention: Backend = attention
        self.qkv = Linear(width, 3 * width, **options)
        self.proj = Linear(width, width, **options)

    def __call__(
        self, x: Float[Array, "B Z Y D"], rotation: Rotation, mask: Bool[Array, "B Z 1 _ Y"]
    ) -> Float[Array, "B Z Y D"]:
        """Mix the patches of each block; `mask` is True at keys that are seen."""
        qkv = self.qkv(x).reshape(*x.shape[:3], 3, self.num_heads, -1)
        query, key, value = qkv.transpose(3, 0, 1, 4, 2, 5)  # each [B Z N Y H]
        query = checkpoint_name(rotate(query, rotation), "query")
        key = checkpoint_name(rotate(key, rotation), "key")
        segment = Segment(key, checkpoint_name(value, "value"), mask)
        mixed = attend(query, segment, backend=self.attention)
        mixed = mixed.swapaxes(2, 3).reshape(x.shape)
        return self.proj(checkpoint_name(mixed, "mixed"))


class VisionBlock(nnx.Module):
    """Pre-norm attention and feed-forward; HF `Qwen2_5_VLVisionBlock`."""

    def __init__(
        self,
        config: VisionConfig,
        *,
        stddev: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        attention: Backend,
    ):
        width = config.hidden_size
        self.norm1 = RMSNorm(width, epsilon=NORM_EPSILON, dtype=dtype)
        self.norm2 = RMSNorm(width, epsilon=NORM_EPSILON, dtype=dtype)
        self.attn = VisionAttention(
            config, stddev=stddev, dtype=dtype, rngs=rngs, attention=attention
        )
        self.mlp = GatedFeedForward(
            width, config.intermediate_size, use_bias=True, stddev=stddev, dtype=dtype, rngs=rngs
        )

    def __call__(
        self, x: Float[Array, "B Z Y D"], rotation: Rotation, mask: Bool[Array, "B Z 1 _ Y"]
    ) -> Float[Array, "B Z Y D"]:
        """Update the patches of each block."""
        x = x + self.attn(self.norm1(x), rotation, mask)
        return x + self.mlp(self.norm2(x))


class PatchMerger(nnx.Module):
    """Turn each square of patches into one token; HF `Qwen2_5_VLPatchMerger`."""

    def __init__(self, config: VisionConfig, *, stddev: float, dtype: jnp.dtype, rngs: nnx.Rngs):
        width = config.hidden_size * config.merge_unit
        options = {"use_bias": True, "stddev": stddev, "dtype": dtype, "rngs": rngs}
        self.merge_unit = config.merge_unit
        self.ln_q = RMSNorm(config.hidden_size, epsilon=NORM_EPSILON, dtype=dtype)
        self.fc1 = Linear(width, width, **options)
        self.fc2 = Linear(width, config.out_hidden_size, **options)

    def __call__(self, x: Float[Array, "B W P D"]) -> Float[Array, "B M E"]:
        """Merge consecutive patches, one unit at a time."""
        merged = self.ln_q(x).reshape(x.shape[0], -1, self.merge_unit * x.shape[-1])
        return self.fc2(jax.nn.gelu(self.fc1(merged), approximate=False))


class VisionTower(nnx.Module):
    """Patches to merged tokens; HF `Qwen2_5_VisionTransformerPretrainedModel`."""

    def __init__(
        self,
        config: VisionConfig,
        *,
        stddev: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        attention: Backend,
    ):
        self.config = config
        self.patch_embed = PatchEmbed(config, stddev=stddev, dtype=dtype, rngs=rngs)
        self.blocks = stack_layers(
            lambda layer_rngs: VisionBlock(
                config, stddev=stddev, dtype=dtype, rngs=layer_rngs, attention=attention
            ),
            config.depth,
            rngs,
        )
        self.merger = PatchMerger(config, stddev=stddev, dtype=dtype, rngs=rngs)

    def __call__(
        self, prompts: Prompts, *, dtype: jnp.dtype, remat: Remat
    ) -> Float[Array, "B M D"]:
        """Return the merged features of all slots in window order; empty slots hold garbage."""
        x = self.patch_embed(prompts.patches, dtype=dtype)
        rotation = axial_rotation(
            prompts.patch_positions, head_dim=self.config.head_dim, theta=ROPE_THETA
        )
        return self.merger(self._run_blocks(x, rotation, prompts, remat))

    def _run_blocks(
        self, x: Float[Array, "B W P D"], rotation: Rotation, prompts: Prompts, remat: Remat
    ) -> Float[Array, "B W P D"]:
        batch, windows, patches, width = x.shape
        whole_shape = (batch, 1, windows * patches, width)
        cos, sin = rotation
        window_rotation = (cos[:, :, None], sin[:, :, None])
        angles_shape = (batch, 1, 1, windows * patches, -1)
        whole_rotation = (cos.reshape(angles_shape), sin.reshape(angles_shape))
        window_mask = prompts.patch_mask[:, :, None, None, :]
        whole_mask = _same_image(prompts)

        def in_windows(block: VisionBlock, x: Array, _: None) -> tuple[Array, None]:
            return block(x, window_rotation, window_mask), None

        def in_image(block: VisionBlock, x: Array, _: None) -> tuple[Array, None]:
            y = block(x.reshape(whole_shape), whole_rotation, whole_mask)
            return y.reshape(x.shape), None

        graphdef, stacked = nnx.split(self.blocks)

        def run(x: Array, state: Any, windowed: int) -> Array:
            for body, part in ((in_windows, slice(0, windowed)), (in_image, slice(windowed, None))):
                layers = jax.tree.map(lambda leaf, part=part: leaf[part], state)
                if jax.tree.leaves(layers)[0].shape[0]:
                    x, _ = scan_layers(nnx.merge(graphdef, layers), body, x, remat=remat)
            return x

        runs = _runs(self.config)
        if len(set(runs)) == 1 and len(runs) > 1:
            # Equal runs are scanned, so that a deep tower compiles one run and its weights are
            # not cut into copies.
            split = jax.tree.map(lambda leaf: leaf.reshape(len(runs), -1, *leaf.shape[1:]), stacked)
            return lax.scan(lambda x, state: (run(x, state, runs[0][0]), None), x, split)[0]
        ends = itertools.accumulate(windowed + whole for windowed, whole in runs)
        for (windowed, whole), end in zip(runs, ends, strict=True):
            part = slice(end - windowed - whole, end)
            x = run(x, jax.tree.map(lambda leaf, part=part: leaf[part], stacked), windowed)
        return x


def _runs(config: VisionConfig) -> list[tuple[int, int]]:
    """Group the blocks: (windowed blocks, whole-image blocks: 1, or 0 in an open last run)."""
    runs, start = [], 0
    for index in config.fullatt_block_indexes:
        runs.append((index - start, 1))
        start = index + 1
    return runs if start == config.depth else [*runs, (config.depth - start, 0)]


def _same_image(prompts: Prompts) -> Bool[Array, "B 1 1 Y Y"]:
    image = jnp.where(prompts.patch_mask, prompts.window_image[:, :, None], -1)
    image = image.reshape(image.shape[0], -1)
    same = (image[:, :, None] == image[:, None, :]) & (image >= 0)[:, None, :]
    return same[:, None, None]
