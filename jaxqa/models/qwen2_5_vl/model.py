"""Qwen2.5-VL as a frozen object over explicit parameters.

A prompt is encoded once; its G completions are a second stream that attends to the prompt's keys
and values and to its own past. Training (`group_hidden`) and sampling (`prefill`, `decode`) run
the same layers.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig
from jaxqa.models.qwen2_5_vl.inputs import Cache, Prefix, Prompts
from jaxqa.models.qwen2_5_vl.text import TextTower, read_token_by_layer
from jaxqa.models.qwen2_5_vl.vision import VisionTower
from jaxqa.nn.attention import Segment, Slots
from jaxqa.nn.attention_backends import Backend
from jaxqa.nn.linear import draw
from jaxqa.nn.lora import LoraConfig, add_adapters
from jaxqa.nn.rope import Rotation, multimodal_rotation, text_rotation
from jaxqa.nn.stack import Remat, each_layer
from jaxqa.typing import Array, Float, Int, Key, Params


class Head(nnx.Module):
    """Output table [V D] of an untied model."""

    def __init__(self, shape: tuple[int, int], *, stddev: float, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.weight = nnx.Param(draw(rngs, shape, stddev=stddev, dtype=dtype))


class Towers(nnx.Module):
    """All parameters under their names; HF `Qwen2_5_VLForConditionalGeneration`."""

    def __init__(
        self,
        config: Qwen2_5_VLConfig,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        attention: Backend = "xla",
        lora: LoraConfig = LoraConfig(),  # noqa: B008  # frozen
    ):
        text, stddev = config.text, config.initializer_range
        options: dict[str, Any] = dict(stddev=stddev, dtype=dtype, rngs=rngs, attention=attention)
        self.visual = VisionTower(config.vision, **options)
        self.model = TextTower(text, **options)
        if not text.tie_word_embeddings:
            shape = (text.vocab_size, text.hidden_size)
            self.lm_head = Head(shape, stddev=stddev, dtype=dtype, rngs=rngs)
        if lora.rank:
            add_adapters(self, lora, rngs)


@functools.cache
def _graphdef(config: Qwen2_5_VLConfig, attention: Backend, lora: LoraConfig) -> nnx.GraphDef:
    build = functools.partial(
        Towers, config, dtype=jnp.dtype("float32"), attention=attention, lora=lora
    )
    return nnx.split(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen2_5_VL:
    """The model: hashable, without state; every method is a pure function of `params`.

    Attributes:
        config: the architecture.
        compute_dtype: dtype of activations; norms, softmax and rotations are float32 throughout.
            Parameters keep their own dtype and are cast layer by layer.
        remat: what the backward pass of a layer computes again, see `jaxqa.nn.stack.Remat`.
        attention: what computes it, chosen by `jaxqa.nn.attention_backends.choose`.
        lora: adapters that `params` hold beside the linear maps; none by default.
        most_unstacked: text layers of at most so many weights are copied out of their stack for
            decoding, so that no layer is copied at every token, as a CPU does; 64 Mi are 256 MiB
            in float32.
    """

    config: Qwen2_5_VLConfig
    compute_dtype: str = "float32"
    remat: Remat = "none"
    attention: Backend = "auto"
    lora: LoraConfig = LoraConfig()
    most_unstacked: int = 64 * 2**20

    def __post_init__(self) -> None:
        if self.compute_dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(
                f"compute_dtype is {self.compute_dtype!r}; "
                "it must be 'float32', 'bfloat16' or 'float16'"
            )
        if self.remat not in get_args(Remat):
            raise ValueError(f"remat is {self.remat!r}; it must be one of {get_args(Remat)}")
        if self.attention not in get_args(Backend):
            raise ValueError(
                f"attention is {self.attention!r}; it must be one of {get_args(Backend)}"
            )

    def init(self, key: Key[Array, ""], *, param_dtype: str = "float32") -> Params:
        """Draw parameters: normal matrices, zero biases, unit norms, as HF initialises them."""
        dtype = jnp.dtype(param_dtype)
        towers = Towers(self.config, dtype=dtype, rngs=nnx.Rngs(params=key), lora=self.lora)
        return nnx.to_pure_dict(nnx.split(towers)[1])

    def abstract_params(self, *, param_dtype: str = "float32") -> Params:
        """Return the parameter tree as `jax.ShapeDtypeStruct`s."""
        init = functools.partial(self.init, param_dtype=param_dtype)
        return jax.eval_shape(init, jax.random.key(0))

    def image_features(self, params: Params, prompts: Prompts) -> Float[Array, "B M D"]:
        """Return merged image tokens, M = windows * units per window, in window order.

        Slots outside an image hold finite garbage; `prompts.vision_index` names the real ones.
        """
        towers = self._towers(params)
        return towers.visual(prompts, dtype=self._dtype, remat=self.remat)

    def prompt_hidden(self, params: Params, prompts: Prompts) -> Float[Array, "B S D"]:
        """Return the prompt's hidden states after the final norm; garbage at padding."""
        towers = self._towers(params)
        x, rotation = self._embed_prompt(towers, prompts)
        return towers.model.norm(towers.model.read_prompt(x, rotation, remat=self.remat)[0])

    def prompt_activations(self, params: Params, prompts: Prompts) -> Float[Array, "L B S D"]:
        """Return the residual stream before the first layer and after each one, no final norm."""
        towers = self._towers(params)
        x, rotation = self._embed_prompt(towers, prompts)
        return jnp.concatenate([x[None], towers.model.prompt_activations(x, rotation)])

    def prefill(self, params: Params, prompts: Prompts) -> Prefix:
        """Encode each prompt once for decoding."""
        towers = self._towers(params)
        x, rotation = self._embed_prompt(towers, prompts)
        x, (key, value) = towers.model.read_prompt(x, rotation, remat=self.remat)
        return Prefix(
            key=key,
            value=value,
            mask=prompts.mask,
            last_hidden=towers.model.norm(_last_token(x, prompts)),
            next_position=prompts.next_position,
        )

    def group_hidden(
        self, params: Params, prompts: Prompts, completion_ids: Int[Array, "B G T"]
    ) -> Float[Array, "B G T D"]:
        """Return the hidden states, after the final norm, that predict each completion token.

        Token 0 is predicted from the prompt's last token, token t from completion token t-1. Equal
        to running each prompt with each completion as one sequence; ids at padding may be any of
        the vocabulary.
        """
        towers = self._towers(params)
        tower, (batch, groups, length) = towers.model, completion_ids.shape
        x, rotation = self._embed_prompt(towers, prompts)
        y = tower.embed_tokens(completion_ids[:, :, : length - 1], dtype=self._dtype)
        steps = jnp.arange(length - 1, dtype=prompts.next_position.dtype)
        rotations = (rotation, self._text_rotation(prompts.next_position[:, None] + steps[None]))
        if length > 1:
            x, y = tower.read_group(x, y, rotations, prompts.mask, remat=self.remat)
        else:
            x, _ = tower.read_prompt(x, rotation, remat=self.remat)
        first = _last_token(x, prompts)[:, None, None, :]
        first = jnp.broadcast_to(first, (batch, groups, 1, first.shape[-1]))
        return tower.norm(jnp.concatenate([first, y], axis=2))

    def init_cache(self, prefix: Prefix, num_samples: int, length: int) -> Cache:
        """Return an empty cache for `num_samples` completions of `length` tokens per prompt."""
        layers, batch, heads, _, width = prefix.key.shape
        shape = (batch, heads, num_samples, length, width)
        shapes = [shape] * layers if self._decodes_by_layer else [(layers, *shape)]
        # All of them different: an array in two places could not be donated.
        key, value = (
            tuple(jnp.zeros(shape, prefix.key.dtype) for shape in shapes) for _ in range(2)
        )
        return Cache(key=key, value=value)

    def decoder(
        self, params: Params, prefix: Prefix
    ) -> Callable[[Cache, Array, Array], tuple[Array, Cache]]:
        """Return `(cache, token_ids [B G], step) -> (hidden [B G D], cache)`.

        It processes completion token number `step` of each sample and returns what predicts the
        next. The prompt's keys and values are read once per group, the cache is written at `step`.
        Make it outside the loop that calls it: what it prepares, it prepares once.
        """
        tower = self._towers(params).model
        by_layer = _by_layer(tower, prefix) if self._decodes_by_layer else None

        def decode(cache: Cache, token_ids: Array, step: Array) -> tuple[Array, Cache]:
            y = tower.embed_tokens(token_ids[:, :, None], dtype=self._dtype)
            step = step.astype(prefix.next_position.dtype)
            rotation = self._text_rotation(prefix.next_position[:, None] + step)
            if by_layer is not None:
                y, cache = by_layer(y, rotation, cache, step)
            else:
                y, cache = _stacked(tower, prefix, y, rotation, cache, step)
            return tower.norm(y)[:, :, 0], cache

        return decode

    def head(self, params: Params) -> Float[Array, "V D"]:
        """Return the output table, in the parameters' dtype: logits = hidden @ head.T."""
        if self.config.text.tie_word_embeddings:
            return params["model"]["embed_tokens"]["embedding"]
        return params["lm_head"]["weight"]

    @property
    def _decodes_by_layer(self) -> bool:
        """Whether the text layers' weights are few enough to be copied."""
        text = self.config.text
        attention = 2 + 2 * text.num_key_value_heads / text.num_attention_heads
        width = text.hidden_size
        count = width * (attention * width + 3 * text.intermediate_size) * text.num_hidden_layers
        return count <= self.most_unstacked

    @property
    def _dtype(self) -> jnp.dtype:
        return jnp.dtype(self.compute_dtype)

    def _towers(self, params: Params) -> Towers:
        return nnx.merge(_graphdef(self.config, self.attention, self.lora), params)

    def _text_rotation(self, positions: Int[Array, "B T"]) -> Rotation:
        text = self.config.text
        return text_rotation(positions, head_dim=text.head_dim, theta=text.rope_theta)

    def _embed_prompt(
        self, towers: Towers, prompts: Prompts
    ) -> tuple[Float[Array, "B S D"], Rotation]:
        """Look up the tokens and put the image features in their places."""
        text = self.config.text
        tokens = towers.model.embed_tokens(prompts.token_ids, dtype=self._dtype)
        features = towers.visual(prompts, dtype=self._dtype, remat=self.remat)
        index = prompts.vision_index[:, :, None]
        placed = jnp.take_along_axis(features, jnp.maximum(index, 0), axis=1, mode="clip")
        rotation = multimodal_rotation(
            prompts.positions,
            head_dim=text.head_dim,
            theta=text.rope_theta,
            sections=text.mrope_section,
        )
        return jnp.where(index >= 0, placed, tokens), rotation


def _stacked(
    tower: TextTower,
    prefix: Prefix,
    y: Float[Array, "B G 1 D"],
    rotation: Rotation,
    cache: Cache,
    step: Int[Array, ""],
) -> tuple[Float[Array, "B G 1 D"], Cache]:
    """Run a token through layers in a loop; the cache is one array, written once, after it."""
    (past_key,), (past_value,) = cache.key, cache.value
    is_past = jnp.arange(past_key.shape[4], dtype=step.dtype) < step
    y, (key, value) = tower.read_token(
        y,
        rotation,
        prompt=(prefix.key, prefix.value, prefix.mask),
        past=(past_key, past_value, is_past),
    )
    write = functools.partial(lax.dynamic_update_slice_in_dim, start_index=step, axis=4)
    return y, Cache(key=(write(past_key, key),), value=(write(past_value, value),))


def _by_layer(
    tower: TextTower, prefix: Prefix
) -> Callable[[Array, Rotation, Cache, Array], tuple[Array, Cache]]:
    """As `_stacked`, through layers that stand one by one, each with an array of the cache."""
    layers = each_layer(tower.layers)
    prompt = [
        Segment(prefix.key[number], prefix.value[number], prefix.mask)
        for number in range(len(layers))
    ]

    def read(y: Array, rotation: Rotation, cache: Cache, step: Array) -> tuple[Array, Cache]:
        pairs = zip(cache.key, cache.value, strict=True)
        past = [Slots(key, value, step) for key, value in pairs]
        y, written = read_token_by_layer(layers, y, rotation, prompt=prompt, past=past)
        key, value = zip(*written, strict=True)
        return y, Cache(key=key, value=value)

    return read


def _last_token(x: Float[Array, "B S D"], prompts: Prompts) -> Float[Array, "B D"]:
    """Pick each row's activations at its last real token."""
    last = jnp.maximum(prompts.mask.sum(axis=1, dtype=jnp.int32) - 1, 0)
    return jnp.take_along_axis(x, last[:, None, None], axis=1, mode="clip")[:, 0]
