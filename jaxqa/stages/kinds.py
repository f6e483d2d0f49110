"""The kinds of stages: what each trains, on which batches, towards which objective."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jaxqa import sharding
from jaxqa.data.batching import PromptBatch, SftBatch
from jaxqa.data.loader import Loader, LoaderConfig, train_loader
from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl.inputs import Prompts
from jaxqa.objectives import warmup
from jaxqa.sampling.sampler import Sampler
from jaxqa.stages.config import GrpoStage, SftStage, StageConfig, WarmupStage
from jaxqa.stages.setup import Setup, labelled_share, stage_key
from jaxqa.train import batches, losses
from jaxqa.train.loop import BatchSource, Update
from jaxqa.train.metric_log import RolloutLog
from jaxqa.train.optimizer import learning_rate_schedule, make_optimizer
from jaxqa.train.rollout import RolloutConfig, RolloutSource
from jaxqa.train.state import TrainState, create_state
from jaxqa.train.step import make_update
from jaxqa.typing import Array, Params


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A stage ready to train.

    Attributes:
      state: at step 0.
      update: one training step.
      source: where its batches come from.
    """

    state: TrainState
    update: Update
    source: BatchSource


def make_loader(setup: Setup, name: str, stage: StageConfig) -> Loader:
    """The stage's batches, after checking all that can be known before the first stage begins.

    Raises:
      UserError: the data, the model, the mesh and the stage do not fit together.
    """
    sharding.check_rows(stage.batch_size, setup.mesh, name=f"config.{name}.batch_size")
    vision = setup.model.config.vision
    if isinstance(stage, WarmupStage) and (vision.patch_values, vision.merge_unit) != (588, 4):
        raise UserError(
            f"config.{name}: a warm-up needs patches of 14 x 14 RGB pixels, merged 2 x 2; the "
            f"model has {vision.in_channels} x {vision.patch_size} x {vision.patch_size} and "
            f"spatial_merge_size {vision.spatial_merge_size}; leave the stage out"
        )
    setup.check_room(_longest_completion(setup, stage), name=name)
    examples = labelled_share(setup.train, stage.label_fraction)
    seed = int(jax.random.bits(stage_key(setup.config.seed, name), dtype=np.uint32))
    data = setup.config.data
    try:
        return train_loader(
            examples,
            template=setup.template,
            encoder=setup.encoder,
            buckets=data.buckets,
            config=LoaderConfig(
                batch_size=stage.batch_size, num_workers=data.workers, cache_mb=data.cache_mb
            ),
            seed=seed,
            supervised=isinstance(stage, SftStage),
        )
    except UserError as error:
        raise UserError(f"stage {name}: {error}") from error


def prepare(
    setup: Setup,
    name: str,
    stage: StageConfig,
    params: Params,
    *,
    loader: Loader,
    rollouts: RolloutLog,
) -> Prepared:
    """Make stage `name` ready; `params` are the policy that it starts from."""
    if isinstance(stage, WarmupStage):
        return _prepare_warmup(setup, name, stage, params, loader)
    if isinstance(stage, SftStage):
        return _prepare_sft(setup, stage, params, loader)
    assert isinstance(stage, GrpoStage)  # STAGE_KINDS has no other
    return _prepare_grpo(setup, name, stage, params, loader=loader, rollouts=rollouts)


def policy_params(stage: StageConfig, params: Params) -> Params:
    """The policy among a stage's trained parameters."""
    return params["policy"] if isinstance(stage, WarmupStage) else params


def completions_per_step(stage: StageConfig) -> int:
    """Completions trained on in one step; 0 in a warm-up."""
    if isinstance(stage, WarmupStage):
        return 0
    return stage.batch_size * (stage.sampling.num_samples if isinstance(stage, GrpoStage) else 1)


def _prepare_warmup(
    setup: Setup, name: str, stage: WarmupStage, params: Params, loader: Loader
) -> Prepared:
    head = warmup.init_head(
        stage_key(setup.config.seed, name), setup.model.config.vision.out_hidden_size
    )
    head = jax.device_put(head, sharding.replicated(setup.mesh))
    units = setup.model.config.vision.merge_unit

    def fields_of(host: PromptBatch) -> dict[str, Any]:
        num_tokens = np.float32(host.prompts.patch_mask.sum() // units)
        return {"prompts": host.prompts, "num_tokens": num_tokens}

    optimizer = make_optimizer(stage.optimizer, stage.steps)
    return Prepared(
        state=create_state({"policy": params, "head": head}, optimizer),
        update=_single_update(losses.WarmupObjective(model=setup.model), optimizer, stage),
        source=LoaderSource(loader, fields_of, batches.WarmupBatch, setup.mesh),
    )


def _prepare_sft(setup: Setup, stage: SftStage, params: Params, loader: Loader) -> Prepared:
    optimizer = make_optimizer(stage.optimizer, stage.steps)

    def fields_of(host: SftBatch) -> dict[str, Any]:
        return {
            "prompts": host.prompts,
            "completion_ids": host.completion_ids,
            "completion_mask": host.completion_mask,
            "num_tokens": np.float32(host.completion_mask.sum()),
        }

    return Prepared(
        state=create_state(params, optimizer),
        update=_single_update(losses.SftObjective(model=setup.model), optimizer, stage),
        source=LoaderSource(loader, fields_of, batches.SftBatch, setup.mesh),
    )


def _prepare_grpo(
    setup: Setup,
    name: str,
    stage: GrpoStage,
    params: Params,
    *,
    loader: Loader,
    rollouts: RolloutLog,
) -> Prepared:
    optimizer = make_optimizer(stage.optimizer, stage.steps * stage.updates_per_rollout)
    objective = losses.GrpoObjective(
        model=setup.model, config=stage.objective, temperature=stage.sampling.temperature
    )
    source = RolloutSource(
        RolloutConfig(
            seed=setup.config.seed,
            stage=name,
            terms=tuple(stage.rewards.values()),
            advantages=stage.advantages,
            objective=stage.objective,
            completion_lengths=_rollout_lengths(setup, stage),
        ),
        prompter=loader,
        sampler=Sampler(
            model=setup.model,
            config=stage.sampling,
            stop_token_ids=setup.tokenizer.stop_token_ids,
            pad_token_id=setup.tokenizer.pad_token_id,
        ),
        tokenizer=setup.tokenizer,
        mesh=setup.mesh,
        reference=_reference(setup, stage, params) if stage.objective.beta > 0 else None,
        write=lambda step, records: rollouts.append(name, step, records),
    )
    return Prepared(
        state=create_state(params, optimizer),
        update=_grpo_update(objective, optimizer, stage),
        source=source,
    )


class LoaderSource:
    """A data loader as a batch source: picks what the step reads and puts it on the mesh."""

    def __init__(
        self,
        loader: Loader,
        fields_of: Callable[[Any], dict[str, Any]],
        batch_type: Callable[..., Any],
        mesh: jax.sharding.Mesh,
    ):
        """Take the loader and which fields of `batch_type` its host batches fill, and how."""
        self._loader, self._fields_of = loader, fields_of
        self._batch_type, self._mesh = batch_type, mesh
        self.get_state, self.set_state = loader.get_state, loader.set_state
        self.close = loader.close

    def next(self, params: Params, step: int) -> tuple[Any, dict[str, float]]:
        """The next batch; the policy and the step do not matter."""
        del params, step
        fields = self._fields_of(next(self._loader))
        return self._batch_type(**sharding.shard_rows(fields, self._mesh)), {}


def _longest_completion(setup: Setup, stage: StageConfig) -> int:
    if isinstance(stage, GrpoStage):
        return stage.sampling.max_new_tokens
    if isinstance(stage, SftStage):
        return max(setup.config.data.buckets.completion_lengths, default=0)
    return 0


def _single_update(objective: Any, optimizer: Any, stage: StageConfig) -> Update:
    update = make_update(
        objective,
        optimizer,
        learning_rate=learning_rate_schedule(stage.optimizer, stage.steps),
        micro_batches=stage.micro_batches,
    )
    return lambda state, batch: update(state, batch)[:2]


def _grpo_update(objective: losses.GrpoObjective, optimizer: Any, stage: GrpoStage) -> Update:
    """`updates_per_rollout` updates on one rollout.

    The first one's own log-probabilities are the old policy's for those that follow, so its ratio
    is exactly 1 and no extra forward pass is spent on them.
    """
    updates = stage.updates_per_rollout
    schedule = learning_rate_schedule(stage.optimizer, stage.steps * updates)
    update = make_update(
        objective,
        optimizer,
        learning_rate=lambda step: schedule(step * updates),
        micro_batches=stage.micro_batches,
    )

    def step(state: TrainState, batch: batches.GrpoBatch) -> tuple[TrainState, Mapping[str, Any]]:
        last = updates - 1
        state, metrics, log_probs = update(state, batch, advance=last == 0)
        batch = replace(batch, old_log_probs=log_probs)
        for number in range(1, last + 1):
            state, metrics, _ = update(state, batch, advance=number == last)
        return state, metrics

    return step


def _reference(setup: Setup, stage: GrpoStage, params: Params) -> Callable[[Prompts, Array], Array]:
    """Log-probabilities under the policy that the stage started from.

    The training state donates its buffers, so the reference keeps a copy of its own.
    """
    frozen = jax.tree.map(lambda leaf: leaf.copy(), params)

    @jax.jit
    def log_probs(params: Params, prompts: Prompts, completion_ids: Array) -> Array:
        return losses.completion_log_probs(
            setup.model,
            params,
            prompts,
            completion_ids,
            temperature=stage.sampling.temperature,
        )[0]

    return lambda prompts, completion_ids: log_probs(frozen, prompts, completion_ids)


def _rollout_lengths(setup: Setup, stage: GrpoStage) -> tuple[int, ...]:
    """Completion buckets up to the longest sample, which is one itself."""
    longest = stage.sampling.max_new_tokens
    shorter = (n for n in setup.config.data.buckets.completion_lengths if n < longest)
    return (*shorter, longest)
