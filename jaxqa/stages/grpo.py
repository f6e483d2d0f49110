"""The stage `grpo`: rollouts of the current policy, rewarded, and updates on them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax

from jaxqa.data.loader import Loader
from jaxqa.models.qwen2_5_vl.inputs import Prompts
from jaxqa.objectives.sampler_gap import sampler_gap
from jaxqa.stages import programs
from jaxqa.stages.prepared import Prepared
from jaxqa.stages.sections import GrpoStage
from jaxqa.stages.setup import Setup
from jaxqa.train import batches
from jaxqa.train.loop import Update
from jaxqa.train.metric_log import RolloutLog
from jaxqa.train.rollout import RolloutConfig, RolloutSource
from jaxqa.train.state import TrainState, create_state
from jaxqa.typing import Array, Params


def prepare_grpo(
    setup: Setup,
    name: str,
    stage: GrpoStage,
    params: Params,
    *,
    loader: Loader,
    rollouts: RolloutLog,
    reference: Params | None = None,
) -> Prepared:
    """Make a GRPO stage ready; `params` are the policy that it starts from.

    Args:
      reference: the policy from which the KL penalty counts, if it is not `params`.
    """
    training = programs.training(setup.model, stage, setup.mesh, params)
    source = RolloutSource(
        RolloutConfig(
            seed=setup.config.seed,
            stage=name,
            terms=tuple(stage.rewards.items()),
            advantages=stage.advantages,
            objective=stage.objective,
            filter=stage.filter,
            gate=stage.gate,
            micro_batches=stage.micro_batches,
            completion_lengths=_rollout_lengths(setup, stage),
        ),
        prompter=loader,
        sampler=programs.policy_sampler(
            setup.model,
            stage,
            setup.mesh,
            stop_token_ids=setup.tokenizer.stop_token_ids,
            pad_token_id=setup.tokenizer.pad_token_id,
        ),
        tokenizer=setup.tokenizer,
        mesh=setup.mesh,
        reference=_reference(setup, stage, params, reference) if stage.objective.beta else None,
        write=lambda step, records: rollouts.append(name, step, records),
    )
    return Prepared(
        state=create_state(params, training.optimizer, trained=training.trained),
        update=_grpo_update(training.update, stage.updates_per_rollout),
        source=source,
    )


def _grpo_update(update: Any, updates: int) -> Update:
    """`updates` updates on one rollout.

    The first one's own log-probabilities are the old policy's for those that follow, so its ratio
    is exactly 1 and no extra forward pass is spent on them; nor on how far they are from the
    sampler's.
    """

    def step(state: TrainState, batch: batches.GrpoBatch) -> tuple[TrainState, Mapping[str, Any]]:
        last, used = updates - 1, batch.micro_batches
        state, metrics, log_probs = update(state, batch, advance=last == 0, used=used)
        gap = sampler_gap(log_probs, batch.sampler_log_probs, batch.completion_mask)
        batch = replace(batch, old_log_probs=log_probs)
        for number in range(1, last + 1):
            state, metrics, _ = update(state, batch, advance=number == last, used=used)
        return state, {**metrics, **gap}

    return step


def _reference(
    setup: Setup, stage: GrpoStage, params: Params, reference: Params | None
) -> Callable[[Prompts, Array, Array | None], Array]:
    """Log-probabilities under `reference`, or else under the policy that the stage starts from.

    The training state donates its buffers, so then the reference keeps a copy of its own.
    """
    frozen = reference or jax.tree.map(lambda leaf: leaf.copy(), params)

    log_probs = programs.reference_log_probs(setup.model, stage, setup.mesh)
    return lambda prompts, completion_ids, used: log_probs(frozen, (prompts, completion_ids), used)


def _rollout_lengths(setup: Setup, stage: GrpoStage) -> tuple[int, ...]:
    """Completion buckets up to the longest sample, which is one itself."""
    longest = stage.sampling.max_new_tokens
    shorter = (n for n in setup.config.data.buckets.completion_lengths if n < longest)
    return (*shorter, longest)
