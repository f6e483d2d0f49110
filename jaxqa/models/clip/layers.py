"""What the image and the text tower share: a stack of pre-norm transformer layers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from jaxqa.models.clip.config import EncoderConfig
from jaxqa.nn.attention import Segment, attend
from jaxqa.nn.linear import Linear
from jaxqa.nn.norm import LayerNorm
from jaxqa.nn.stack import Remat, scan_layers, stack_layers
from jaxqa.typing import Array, Bool, Float

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


def split_heads(x: Float[Array, "B S D"], heads: int) -> Float[Array, "B N S H"]:
    """Cut the width into heads."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def join_heads(x: Float[Array, "B N S H"]) -> Float[Array, "B S D"]:
    """Undo `split_heads`."""
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


class SelfAttention(nnx.Module):
    """Multi-head attention; HF `CLIPAttention`, `SiglipAttention`."""

    def __init__(self, config: EncoderConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        width = config.hidden_size
        inner = (2 * config.num_hidden_layers * width) ** -0.5
        options = {"use_bias": True, "dtype": dtype, "rngs": rngs}
        self.num_heads = config.num_attention_heads
        self.q_proj = Linear(width, width, stddev=inner, **options)
        self.k_proj = Linear(width, width, stddev=inner, **options)
        self.v_proj = Linear(width, width, stddev=inner, **options)
        self.out_proj = Linear(width, width, stddev=width**-0.5, **options)

    def __call__(
        self, x: Float[Array, "B S D"], mask: Bool[Array, "1 1 _ S"]
    ) -> Float[Array, "B S D"]:
        """Mix the tokens of each row; `mask` is True at keys that are seen."""
        query, key, value = (
            split_heads(projection(x), self.num_heads)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(join_heads(attend(query, Segment(key, value, mask))))


class FeedForward(nnx.Module):
    """fc2(act(fc1(x))); HF `CLIPMLP`, `SiglipMLP`."""

    def __init__(self, config: EncoderConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        width, hidden = config.hidden_size, config.intermediate_size
        options = {"use_bias": True, "dtype": dtype, "rngs": rngs}
        self.activation = config.hidden_act
        self.fc1 = Linear(width, hidden, stddev=(2 * width) ** -0.5, **options)
        outer = (2 * config.num_hidden_layers * width) ** -0.5
        self.fc2 = Linear(hidden, width, stddev=outer, **options)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Apply to the last axis."""
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class EncoderLayer(nnx.Module):
    """Pre-norm attention and feed-forward; HF `CLIPEncoderLayer`, `SiglipEncoderLayer`."""

    def __init__(self, config: EncoderConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        width, epsilon = config.hidden_size, config.layer_norm_eps
        self.layer_norm1 = LayerNorm(width, epsilon=epsilon, dtype=dtype)
        self.layer_norm2 = LayerNorm(width, epsilon=epsilon, dtype=dtype)
        self.self_attn = SelfAttention(config, dtype=dtype, rngs=rngs)
        self.mlp = FeedForward(config, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B S D"], mask: Bool[Array, "1 1 _ S"]
    ) -> Float[Array, "B S D"]:
        """Update the tokens of each row."""
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nnx.Module):
    """The stack; HF `CLIPEncoder`, `SiglipEncoder`."""

    def __init__(self, config: EncoderConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.layers = stack_layers(
            lambda layer_rngs: EncoderLayer(config, dtype=dtype, rngs=layer_rngs),
            config.num_hidden_layers,
            rngs,
        )

    def __call__(
        self, x: Float[Array, "B S D"], mask: Bool[Array, "1 1 _ S"], *, remat: Remat
    ) -> Float[Array, "B S D"]:
        """Run all layers."""
        return scan_layers(self.layers, lambda f, x, _: (f(x, mask), None), x, remat=remat)[0]

    def activations(
        self, x: Float[Array, "B S D"], mask: Bool[Array, "1 1 _ S"]
    ) -> Float[Array, "L B S D"]:
        """Return the input and the output of every layer."""

        def step(layer: EncoderLayer, x: Array, _: None) -> tuple[Array, Array]:
            y = layer(x, mask)
            return y, y

        return jnp.concatenate([x[None], scan_layers(self.layers, step, x)[1]])
