"""A model reading answers again: what it saw, attended to and was unsure of as they were written.

Answers are those that an evaluation kept, so that nothing is sampled anew.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxqa.data import encoding
from jaxqa.data.encoding import PromptEncoder
from jaxqa.data.prompts.template import PromptTemplate
from jaxqa.data.records import Example
from jaxqa.errors import UserError
from jaxqa.evaluation.analysis.text_space import rationale
from jaxqa.evaluation.evaluator import Prediction
from jaxqa.models.qwen2_5_vl.inputs import Prompts, stack_rows
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.nn.rope import multimodal_rotation, rotate
from jaxqa.scoring.expected import continue_prompts, cut_before_number
from jaxqa.scoring.loading import standard_buckets
from jaxqa.typing import Array, Float, Int, Params

_STEP = 64  # of completion lengths, so that few shapes are compiled
CATEGORIES = ("first token", "prompt", "image", "reasoning", "answer's tags")
_ANSWER = "<answer>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenFacts:
    """One answer, token by token.

    Attributes:
      texts: the tokens.
      entropies: in nats, of the distribution that each was drawn from, at temperature 1.
      log_probs: of the tokens.
    """

    texts: list[str]
    entropies: np.ndarray
    log_probs: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replay:
    """A model with the prompt that the answers were given to."""

    model: Qwen2_5_VL
    encoder: PromptEncoder
    params: Params
    template: PromptTemplate

    def token_facts(self, prediction: Prediction) -> TokenFacts:
        """Entropy and log-probability of every token of an answer.

        Raises:
          UserError: the image cannot be read, or the answer is empty.
        """
        ids = self._written(prediction)
        padded = np.pad(ids, (0, -len(ids) % _STEP))
        prompts = self.prompts(prediction)
        found = _token_facts(self.model, self.params, prompts, padded[None, None])
        entropies, log_probs = (np.asarray(x)[0, 0, : len(ids)] for x in found)
        decode = functools.partial(self.encoder.tokenizer.decode, skip_special_tokens=False)
        texts = [decode([token]) for token in ids.tolist()]
        return TokenFacts(texts=texts, entropies=entropies, log_probs=log_probs)

    def attention_shares(self, prediction: Prediction) -> Float[np.ndarray, "L 5"]:
        """Where the token that the number is predicted from looks, mean over heads, by layer.

        In the order of `CATEGORIES`. The first token is apart: it takes what heads have no use for;
        so are `<answer>` and what follows it, which are no reasoning, nor are empty tags before it.

        Raises:
          UserError: the image cannot be read, or the answer has no number.
        """
        prompts = self.prompts(prediction)
        cut = cut_before_number(self._written(prediction).tolist(), self.encoder.tokenizer)
        if cut is None:
            raise UserError(f"{prediction.image}: its answer has no number to look at")
        length = -(-len(cut.token_ids) // _STEP) * _STEP
        longer = continue_prompts(prompts, [cut.token_ids], length=max(length, _STEP))
        weights = np.asarray(_last_attention(self.model, self.params, longer))[:, 0]
        start = int(np.asarray(prompts.mask)[0].sum())
        is_image = np.asarray(longer.vision_index)[0] >= 0
        place = np.arange(len(is_image))
        end = start + self._rationale_length(cut.token_ids)
        groups = (
            place == 0,
            (place > 0) & (place < start) & ~is_image,
            is_image,
            (place >= start) & (place < end),
            place >= end,
        )
        return np.stack([weights[:, group].sum(-1) for group in groups], axis=-1)

    def features(self, prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
        """Mean of the image's merged tokens, and of the written tokens' final states.

        Raises:
          UserError: the image cannot be read, or the answer is empty.
        """
        ids, prompts = self._written(prediction), self.prompts(prediction)
        length = -(-len(ids) // _STEP) * _STEP
        longer = continue_prompts(prompts, [ids.tolist()], length=length)
        start = int(np.asarray(prompts.mask)[0].sum())
        seen, states = _features(self.model, self.params, longer)
        slots = np.asarray(longer.vision_index)[0]
        visual = np.asarray(seen, np.float32)[0, slots[slots >= 0]].mean(0)
        return visual, np.asarray(states, np.float32)[0, start : start + len(ids)].mean(0)

    def prompts(self, prediction: Prediction) -> Prompts:
        """The prompt that was answered, as one row."""
        if not Path(prediction.image).is_file():
            raise UserError(
                f"{prediction.image}: no such file; analyses look at the images again, where the "
                "evaluation read them"
            )
        example = Example(
            example_id=prediction.example_id,
            image=Path(prediction.image),
            score=prediction.label,
            dataset=prediction.dataset,
            task=self.template.task,
            prompt=prediction.prompt,
        )
        row = encoding.build_prompt_row(example, self.template, self.encoder)
        bucket = self._buckets.index(row.length, row.num_windows)
        return stack_rows(
            [row],
            prompt_length=self._buckets.prompt_lengths[bucket],
            num_windows=self._buckets.window_counts[bucket],
        )

    def _rationale_length(self, ids: Sequence[int]) -> int:
        """How many of the first tokens of an answer are its rationale; 0 where it has none."""
        decode = self.encoder.tokenizer.decode
        text = decode(ids)
        end = text.rfind(_ANSWER) if _ANSWER in text else len(text)
        if not rationale(text[:end]):
            return 0
        length = len(ids)
        while length and len(decode(ids[: length - 1])) >= end:
            length -= 1
        return length

    @functools.cached_property
    def _buckets(self) -> Any:
        return standard_buckets(self.encoder, self.template, max_new_tokens=_STEP)

    def _written(self, prediction: Prediction) -> Int[np.ndarray, " T"]:
        ids = self.encoder.tokenizer.encode(prediction.text)
        if not ids:
            raise UserError(f"{prediction.image}: its answer is empty")
        return np.asarray(ids, np.int32)


@functools.partial(jax.jit, static_argnums=0)
def _token_facts(
    model: Qwen2_5_VL, params: Params, prompts: Prompts, ids: Int[Array, "B G T"]
) -> tuple[Float[Array, "B G T"], Float[Array, "B G T"]]:
    hidden = model.group_hidden(params, prompts, ids)
    head = model.head(params).astype(hidden.dtype)
    logits = jnp.einsum("bgtd,vd->bgtv", hidden, head, preferred_element_type=jnp.float32)
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    entropies = -(jnp.exp(log_probs) * log_probs).sum(-1)
    return entropies, jnp.take_along_axis(log_probs, ids[..., None], axis=-1)[..., 0]


@functools.partial(jax.jit, static_argnums=0)
def _features(
    model: Qwen2_5_VL, params: Params, prompts: Prompts
) -> tuple[Float[Array, "B M D"], Float[Array, "B S D"]]:
    return model.image_features(params, prompts), model.prompt_hidden(params, prompts)


@functools.partial(jax.jit, static_argnums=0)
def _last_attention(model: Qwen2_5_VL, params: Params, prompts: Prompts) -> Float[Array, "L B S"]:
    """Attention of the last real token over all tokens, mean over heads, of every layer."""
    text = model.config.text
    layers = params["model"]["layers"]
    inputs = model.prompt_activations(params, prompts)[:-1].astype(jnp.float32)  # [L B S D]
    rotation = multimodal_rotation(
        prompts.positions,
        head_dim=text.head_dim,
        theta=text.rope_theta,
        sections=text.mrope_section,
    )
    last = prompts.mask.sum(-1, dtype=jnp.int32) - 1
    kv_heads = text.num_key_value_heads

    def attend(_: None, layer: tuple[Array, dict, Array]) -> tuple[None, Array]:
        x, projections, weight = layer
        scale = jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + text.rms_norm_eps)
        x = x * scale * weight.astype(jnp.float32)[None, None]
        query, key = (
            x @ projections[name]["kernel"].astype(jnp.float32)
            + projections[name]["bias"].astype(jnp.float32)[None, None]
            for name in ("q_proj", "k_proj")
        )
        turn = (rotation[0][:, :, None], rotation[1][:, :, None])
        query = rotate(query.reshape(*x.shape[:2], -1, text.head_dim), turn)
        key = rotate(key.reshape(*x.shape[:2], kv_heads, text.head_dim), turn)
        query = jnp.take_along_axis(query, last[:, None, None, None], axis=1)[:, 0]  # [B N H]
        query = query.reshape(query.shape[0], kv_heads, -1, text.head_dim)
        logits = jnp.einsum("bkrh,bskh->bkrs", query, key) / text.head_dim**0.5
        logits = jnp.where(prompts.mask[:, None, None], logits, -jnp.inf)
        return None, jax.nn.softmax(logits, axis=-1).mean((1, 2))

    attention = {name: layers["self_attn"][name] for name in ("q_proj", "k_proj")}
    norms = layers["input_layernorm"]["weight"]
    return jax.lax.scan(attend, None, (inputs, attention, norms))[1]
