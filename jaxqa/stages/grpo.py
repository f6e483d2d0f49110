"""The stage `grpo`: rollouts of the current policy, rewarded, and updates on them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from jaxqa import tree
from jaxqa.data.loader import Loader
from jaxqa.models.qwen2_5_vl import parts
from jaxqa.models.qwen2_5_vl.adapters import is_adapter, without_adapters
from jaxqa.models.qwen2_5_vl.inputs import Prompts
from jaxqa.objectives.sampler_gap import sampler_gap
from jaxqa.stages import adapters, programs
from jaxqa.stages.prepared import Prepared
from jaxqa.stages.sections import GrpoStage
from jaxqa.stages.setup import Setup
from jaxqa.train import batches
from jaxqa.train.loop import Update
from jaxqa.train.metric_log import RolloutLog
from jaxqa.train.reference import Frozen, Reference
from jaxqa.train.rollout import RolloutConfig, RolloutSource
from jaxqa.train.state import TrainState, create_state, split_trained
from jaxqa.typing import Array, Params


def prepare_grpo(
    setup: Setup,
    name: str,
    stage: GrpoStage,
    params: Params,
    *,
    loader: Loader,
    rollouts: RolloutLog,
    reference: Reference = "start",
) -> Prepared:
    """Make a GRPO stage ready; `params` are the policy that it starts from.

    Args:
      reference: the policy from which the KL penalty counts.
    """
    model = adapters.model_of(setup, name)
    training = programs.training(model, stage, setup.mesh, params)
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
            model,
            stage,
            setup.mesh,
            stop_token_ids=setup.tokenizer.stop_token_ids,
            pad_token_id=setup.tokenizer.pad_token_id,
        ),
        tokenizer=setup.tokenizer,
        mesh=setup.mesh,
        reference=_reference(setup, name, params, reference) if stage.objective.beta else None,
        write=lambda step, records: rollouts.append(name, step, records),
        copy=setup.sampling_copy,
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
    setup: Setup, name: str, params: Params, reference: Reference
) -> Callable[[Params, Prompts, Array, Array | None], Array]:
    """Log-probabilities under the reference; given the current policy, whose base it may share."""
    stage = setup.config.sections[name]
    frozen = frozen_reference(setup, name, params, reference)
    lora = stage.lora.rank > 0 and not callable(reference)  # else it has all of its own
    model = adapters.model_of(setup, name) if reference == "start" else setup.model

    log_probs = programs.reference_log_probs(model, stage, setup.mesh)

    def of_batch(
        policy: Params, prompts: Prompts, completion_ids: Array, used: Array | None
    ) -> Array:
        params = frozen.on_devices()
        if lora:
            params = tree.join(without_adapters(policy), params)
        return log_probs(params, (prompts, completion_ids), used)

    return of_batch


def frozen_reference(setup: Setup, name: str, params: Params, reference: Reference) -> Frozen:
    """What the reference keeps for itself, in the run's compute dtype.

    That is a copy, because the training state donates the buffers of `params`. A stage that trains
    adapters leaves the rest of the policy as it is: there only adapters are copied, if any.
    """
    stage, dtype = setup.config.sections[name], setup.model.compute_dtype
    if callable(reference):
        kept = parts.compute_copy(reference(), dtype, own=False)
    elif reference == "base":
        kept = {}
    else:
        chosen = is_adapter if stage.lora.rank else None
        kept = parts.compute_copy(split_trained(params, chosen)[0], dtype, own=True)
    return Frozen(kept, stage.reference_placement)


def _rollout_lengths(setup: Setup, stage: GrpoStage) -> tuple[int, ...]:
    """Completion buckets up to the longest sample, which is one itself."""
    longest = stage.sampling.max_new_tokens
    shorter = (n for n in setup.config.data.buckets.completion_lengths if n < longest)
    return (*shorter, longest)
