"""Device batches: what one training step reads. Rows lead every array, so slices are batches."""

import typing
from dataclasses import dataclass

import jax

from jaxqa.models.qwen2_5_vl.inputs import Prompts


# Not type-checked: transformations put other things than arrays into the fields.
@jax.tree_util.register_dataclass
@typing.no_type_check
@dataclass(frozen=True, kw_only=True)
class WarmupBatch:
    """Images whose local statistics are to be predicted.

    Attributes:
      prompts: B rows.
      mask: bool [B W P], patches that count: real ones, of images that could be read.
      num_tokens: float32 [], merged vision tokens that count in the whole batch.
    """

    prompts: Prompts
    mask: jax.Array
    num_tokens: jax.Array


@jax.tree_util.register_dataclass
@typing.no_type_check
@dataclass(frozen=True, kw_only=True)
class SftBatch:
    """Prompts with completions to imitate.

    Attributes:
      prompts: B rows.
      completion_ids: int32 [B G T].
      completion_mask: bool [B G T], the stop token included.
      num_tokens: float32 [], completion tokens in the whole batch.
    """

    prompts: Prompts
    completion_ids: jax.Array
    completion_mask: jax.Array
    num_tokens: jax.Array


@jax.tree_util.register_dataclass
@typing.no_type_check
@dataclass(frozen=True, kw_only=True)
class GrpoBatch:
    """Prompts with sampled completions and what they earned.

    Attributes:
      prompts: B rows.
      completion_ids: int32 [B G T].
      completion_mask: bool [B G T], the stop token included.
      sampler_log_probs: float32 [B G T], of the sampler; compared with the trainer's, not trained
        on.
      advantages: float32 [B G].
      normalizer: float32 [], `grpo.loss_normalizer` of the whole rollout batch.
      gate: bool [B G T], tokens that have a policy gradient, or None: all, or the loss decides.
      micro_batches: int32 [], how many micro-batches hold a group, or None: all.
      old_log_probs: float32 [B G T] of the policy that sampled, or None at the first update.
      ref_log_probs: float32 [B G T] of the frozen reference, or None without a KL penalty.
    """

    prompts: Prompts
    completion_ids: jax.Array
    completion_mask: jax.Array
    sampler_log_probs: jax.Array
    advantages: jax.Array
    normalizer: jax.Array
    gate: jax.Array | None = None
    micro_batches: jax.Array | None = None
    old_log_probs: jax.Array | None = None
    ref_log_probs: jax.Array | None = None
