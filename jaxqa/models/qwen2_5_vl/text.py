"""Text tower: one layer serves prompts, groups of completions and single decoding steps."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jaxqa.models.qwen2_5_vl.config import TextConfig
from jaxqa.nn.attention import Segment, Slots, grouped_attention
from jaxqa.nn.attention_backends import Backend
from jaxqa.nn.embedding import Embedding
from jaxqa.nn.feed_forward import GatedFeedForward
from jaxqa.nn.linear import Linear
from jaxqa.nn.norm import RMSNorm
from jaxqa.nn.rope import Rotation, rotate
from jaxqa.nn.stack import Remat, scan_layers, stack_layers
from jaxqa.typing import Array, Bool, Float

KeyValue = tuple[Array, Array]


class TextAttention(nnx.Module):
    """Grouped-query attention with biased projections; HF `Qwen2_5_VLAttention`."""

    def __init__(
        self,
        config: TextConfig,
        *,
        stddev: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        attention: Backend,
    ):
        width, head = config.hidden_size, config.head_dim
        options = {"stddev": stddev, "dtype": dtype, "rngs": rngs}
        self.config = config
        self.attention: Backend = attention
        self.q_proj = Linear(width, width, use_bias=True, **options)
        self.k_proj = Linear(width, config.num_key_value_heads * head, use_bias=True, **options)
        self.v_proj = Linear(width, config.num_key_value_heads * head, use_bias=True, **options)
        self.o_proj = Linear(width, width, use_bias=False, **options)

    def __call__(
        self,
        x: Float[Array, "B G T D"],
        rotation: Rotation,
        *,
        shared: Segment | None,
        past: Segment | Slots | None,
    ) -> tuple[Float[Array, "B G T D"], KeyValue]:
        """Return the mixed values and the tokens' own rotated keys and values.

        With `Slots` they are written there before anything is read, and all slots returned.
        """
        heads, head = self.config.num_key_value_heads, self.config.head_dim
        split = (*x.shape[:3], heads, -1, head)
        cos, sin = rotation
        per_query = (cos[:, None, None, :, None], sin[:, None, None, :, None])
        per_key = (cos[:, None, None], sin[:, None, None])
        query = self.q_proj(x).reshape(split).transpose(0, 3, 1, 2, 4, 5)  # [B K G T R H]
        key = self.k_proj(x).reshape(split)[:, :, :, :, 0].transpose(0, 3, 1, 2, 4)  # [B K G T H]
        value = self.v_proj(x).reshape(split)[:, :, :, :, 0].transpose(0, 3, 1, 2, 4)
        query = checkpoint_name(rotate(query, per_query), "query")
        key = checkpoint_name(rotate(key, per_key), "key")
        value = checkpoint_name(value, "value")
        own: KeyValue | None = (key, value)
        kept = own
        if isinstance(past, Slots):
            past = past.write(own)
            own, kept, past = None, (past.key, past.value), past.seen()
        mixed = grouped_attention(query, own, shared=shared, past=past, backend=self.attention)
        mixed = mixed.transpose(0, 2, 3, 1, 4, 5).reshape(x.shape)
        return self.o_proj(checkpoint_name(mixed, "mixed")), kept


class DecoderLayer(nnx.Module):
    """Pre-norm attention and feed-forward; HF `Qwen2_5_VLDecoderLayer`."""

    def __init__(
        self,
        config: TextConfig,
        *,
        stddev: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        attention: Backend,
    ):
        width, epsilon = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(width, epsilon=epsilon, dtype=dtype)
        self.post_attention_layernorm = RMSNorm(width, epsilon=epsilon, dtype=dtype)
        self.self_attn = TextAttention(
            config, stddev=stddev, dtype=dtype, rngs=rngs, attention=attention
        )
        self.mlp = GatedFeedForward(
            width, config.intermediate_size, use_bias=False, stddev=stddev, dtype=dtype, rngs=rngs
        )

    def __call__(
        self,
        x: Float[Array, "B G T D"],
        rotation: Rotation,
        *,
        shared: Segment | None = None,
        past: Segment | Slots | None = None,
    ) -> tuple[Float[Array, "B G T D"], KeyValue]:
        """Return new activations and the tokens' own keys and values, each [B K G T H].

        A prompt is a group of one without `shared`. `past` holds earlier tokens of the group; if
        that is in `Slots`, the tokens' own are written there and all of them returned.
        """
        mixed, key_value = self.self_attn(
            self.input_layernorm(x), rotation, shared=shared, past=past
        )
        x = x + mixed
        return x + self.mlp(self.post_attention_layernorm(x)), key_value


class TextTower(nnx.Module):
    """Embeddings, stacked layers, final norm; HF `Qwen2_5_VLTextModel`."""

    def __init__(
        self,
        config: TextConfig,
        *,
        stddev: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        attention: Backend,
    ):
        self.embed_tokens = Embedding(
            config.vocab_size, config.hidden_size, stddev=stddev, dtype=dtype, rngs=rngs
        )
        self.layers = stack_layers(
            lambda layer_rngs: DecoderLayer(
                config, stddev=stddev, dtype=dtype, rngs=layer_rngs, attention=attention
            ),
            config.num_hidden_layers,
            rngs,
        )
        self.norm = RMSNorm(config.hidden_size, epsilon=config.rms_norm_eps, dtype=dtype)

    def read_prompt(
        self, x: Float[Array, "B S D"], rotation: Rotation, *, remat: Remat
    ) -> tuple[Float[Array, "B S D"], KeyValue]:
        """Run the prompt; return activations before the final norm and its [L B K S H] pair."""

        def step(layer: DecoderLayer, x: Array, _: None) -> tuple[Array, KeyValue]:
            x, (key, value) = layer(x, rotation)
            return x, (key[:, :, 0], value[:, :, 0])

        x, key_value = scan_layers(self.layers, step, x[:, None], remat=remat)
        return x[:, 0], key_value

    def prompt_activations(
        self, x: Float[Array, "B S D"], rotation: Rotation
    ) -> Float[Array, "L B S D"]:
        """Return the activations after each layer, before the final norm."""

        def step(layer: DecoderLayer, x: Array, _: None) -> tuple[Array, Array]:
            x = layer(x, rotation)[0]
            return x, x[:, 0]

        return scan_layers(self.layers, step, x[:, None])[1]

    def read_group(
        self,
        x: Float[Array, "B S D"],
        y: Float[Array, "B G T D"],
        rotations: tuple[Rotation, Rotation],
        mask: Bool[Array, "B S"],
        *,
        remat: Remat,
    ) -> tuple[Float[Array, "B S D"], Float[Array, "B G T D"]]:
        """Run prompt and completions side by side, layer by layer, before the final norm."""

        def step(layer: DecoderLayer, streams: KeyValue, _: None) -> tuple[KeyValue, None]:
            x, y = streams
            x, (key, value) = layer(x, rotations[0])
            y = layer(y, rotations[1], shared=Segment(key[:, :, 0], value[:, :, 0], mask))[0]
            return (x, y), None

        (x, y), _ = scan_layers(self.layers, step, (x[:, None], y), remat=remat)
        return x[:, 0], y

    def read_token(
        self,
        y: Float[Array, "B G 1 D"],
        rotation: Rotation,
        *,
        prompt: tuple[Float[Array, "L B K S H"], Float[Array, "L B K S H"], Bool[Array, "B S"]],
        past: tuple[Float[Array, "L B K G C H"], Float[Array, "L B K G C H"], Bool[Array, " C"]],
    ) -> tuple[Float[Array, "B G 1 D"], KeyValue]:
        """Run one token of each completion; return its [L B K G 1 H] keys and values too."""

        def step(layer: DecoderLayer, y: Array, cached: tuple) -> tuple[Array, KeyValue]:
            prompt_key, prompt_value, past_key, past_value = cached
            return layer(
                y,
                rotation,
                shared=Segment(prompt_key, prompt_value, prompt[2]),
                past=Segment(past_key, past_value, past[2]),
            )

        # Only a loop is certain to have read the cache before its caller writes into it in place.
        inputs = (*prompt[:2], *past[:2])
        return scan_layers(self.layers, step, y, inputs, unroll=False)


def read_token_by_layer(
    layers: Sequence[DecoderLayer],
    y: Float[Array, "B G 1 D"],
    rotation: Rotation,
    *,
    prompt: Sequence[Segment],
    past: Sequence[Slots],
) -> tuple[Float[Array, "B G 1 D"], list[KeyValue]]:
    """Run one token of each completion through layers that stand one by one; return their slots.

    Nothing is cut out of stacked arrays, which a CPU would copy at every token.
    """
    written = []
    for layer, shared, slots in zip(layers, prompt, past, strict=True):
        y, pair = layer(y, rotation, shared=shared, past=slots)
        written.append(pair)
    return y, written
