"""Model and objective put together: what `make_update` differentiates.

Each class is one objective for `step.make_update`: `(params, batch) -> (loss, (metrics, outputs))`
where loss and metrics are contributions of the batch's rows that sum over micro-batches.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxqa import sharding
from jaxqa.metrics import states
from jaxqa.models.qwen2_5_vl.inputs import Prompts
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.objectives import grpo, log_probabilities, sft, warmup
from jaxqa.objectives.entropy_gate import GateConfig, high_entropy_tokens
from jaxqa.train.batches import GrpoBatch, SftBatch, WarmupBatch
from jaxqa.typing import Array, Float, Int, Params


def completion_log_probs(
    model: Qwen2_5_VL,
    params: Params,
    prompts: Prompts,
    completion_ids: Int[Array, "B G T"],
    *,
    temperature: float = 1.0,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "B G T"], Float[Array, "B G T"]]:
    """Log-probability and entropy of every completion token; each prompt is encoded once.

    `mesh` is the one on which rows and parameters lie, if it has several devices.
    """
    with sharding.on_mesh(mesh):
        hidden = model.group_hidden(params, prompts, completion_ids)
    return log_probabilities.token_log_probs(
        hidden, model.head(params), completion_ids, temperature=temperature, mesh=mesh
    )


@dataclass(frozen=True, kw_only=True)
class SftObjective:
    """Cross-entropy of the completions, mean over the tokens of the whole batch."""

    model: Qwen2_5_VL
    mesh: Mesh | None = None

    def __call__(self, params: Params, batch: SftBatch):
        """Loss and metrics of the batch's rows."""
        log_probs, entropies = completion_log_probs(
            self.model, params, batch.prompts, batch.completion_ids, mesh=self.mesh
        )
        loss, _ = sft.sft_loss(log_probs, batch.completion_mask)
        entropy = states.masked_mean(jax.lax.stop_gradient(entropies), batch.completion_mask)
        return loss / batch.num_tokens, ({"entropy": entropy}, None)


@dataclass(frozen=True, kw_only=True)
class GrpoObjective:
    """The clipped policy loss; outputs the trainer's log-probabilities [B G T].

    The metric `micro_batches` counts how often it was computed.
    """

    model: Qwen2_5_VL
    config: grpo.GrpoConfig
    gate: GateConfig
    temperature: float
    mesh: Mesh | None = None

    def __call__(self, params: Params, batch: GrpoBatch):
        """Loss and metrics of the batch's rows."""
        log_probs, entropies = completion_log_probs(
            self.model,
            params,
            batch.prompts,
            batch.completion_ids,
            temperature=self.temperature,
            mesh=self.mesh,
        )
        loss, metrics = grpo.grpo_loss(
            log_probs,
            batch.old_log_probs,
            batch.ref_log_probs,
            batch.advantages,
            batch.completion_mask,
            self.config,
            normalizer=batch.normalizer,
            gate=self._gate(entropies, batch),
            entropies=entropies,
        )
        metrics["micro_batches"] = jnp.float32(1)
        return loss, (metrics, jax.lax.stop_gradient(log_probs))

    def _gate(self, entropies: jax.Array, batch: GrpoBatch) -> jax.Array | None:
        if self.gate.source != "policy":
            return batch.gate
        return high_entropy_tokens(entropies, batch.completion_mask, rho=self.gate.rho)


@dataclass(frozen=True, kw_only=True)
class WarmupObjective:
    """Regression of local image statistics from the merged vision tokens; stands in for
    pretraining. `params` is `{"policy": ..., "head": ...}`."""

    model: Qwen2_5_VL
    mesh: Mesh | None = None

    def __call__(self, params: Params, batch: WarmupBatch):
        """Loss and metrics of the batch's rows."""
        targets, mask = warmup.warmup_targets(batch.prompts.patches, batch.mask)
        with sharding.on_mesh(self.mesh):
            features = self.model.image_features(params["policy"], batch.prompts)
        loss, _ = warmup.warmup_loss(params["head"], features, targets, mask)
        return loss / batch.num_tokens, ({}, None)
