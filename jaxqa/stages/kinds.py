"""The kinds of stages: what each trains, on which batches, towards which objective."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxqa import sharding
from jaxqa.data.batching import PromptBatch, SftBatch
from jaxqa.data.loader import Loader, LoaderConfig, train_loader
from jaxqa.data.source import Source
from jaxqa.errors import UserError
from jaxqa.objectives import warmup
from jaxqa.stages import adapters, programs, rationales
from jaxqa.stages.grpo import prepare_grpo
from jaxqa.stages.prepared import LoaderSource, Prepared
from jaxqa.stages.sections import GrpoStage, SftStage, StageConfig, WarmupStage
from jaxqa.stages.setup import Setup, labelled_share, stage_key
from jaxqa.train import batches
from jaxqa.train.loop import Update
from jaxqa.train.metric_log import RolloutLog
from jaxqa.train.reference import Reference, check_placement
from jaxqa.train.state import create_state
from jaxqa.typing import Array, Params


def make_loader(setup: Setup, name: str, stage: StageConfig) -> Loader:
    """The stage's batches, after checking all that can be known before the first stage begins.

    Raises:
      UserError: the data, the model, the mesh and the stage do not fit together.
    """
    rows = stage.batch_size // stage.micro_batches
    sharding.check_rows(rows, setup.mesh, name=f"rows of a micro-batch of config.{name}")
    vision = setup.model.config.vision
    if isinstance(stage, WarmupStage) and (vision.patch_values, vision.merge_unit) != (588, 4):
        raise UserError(
            f"config.{name}: a warm-up needs patches of 14 x 14 RGB pixels, merged 2 x 2; the "
            f"model has {vision.in_channels} x {vision.patch_size} x {vision.patch_size} and "
            f"spatial_merge_size {vision.spatial_merge_size}; leave the stage out"
        )
    if isinstance(stage, SftStage | GrpoStage) and stage.lora.rank:
        adapters.check(setup, name)
    if isinstance(stage, GrpoStage):
        place = f"config.{name}.reference_placement"
        check_placement(stage.reference_placement, setup.mesh, name=place)
    setup.check_room(_longest_completion(setup, stage), name=name)
    seed = int(jax.random.bits(stage_key(setup.config.seed, name), dtype=np.uint32))
    data = setup.config.data
    try:
        return train_loader(
            stage_sources(setup, stage),
            encoder=setup.encoder,
            buckets=data.buckets,
            config=LoaderConfig(
                batch_size=stage.batch_size,
                num_workers=data.workers,
                on_bad_image="mask_late",
                cache_mb=data.cache_mb,
                mixing=data.mixing,
            ),
            seed=seed,
            supervised=isinstance(stage, SftStage),
            share=sharding.row_share(setup.mesh),
        )
    except UserError as error:
        raise UserError(f"stage {name}: {error}") from error


def stage_sources(setup: Setup, stage: StageConfig) -> list[Source]:
    """What a stage trains on.

    Raises:
      UserError: the rationales that it reads are missing or damaged.
    """
    weights = dict(zip(stage.sources, stage.source_weights, strict=False))
    sources = [
        dataclasses.replace(
            source,
            examples=labelled_share(source.examples, stage.label_fraction),
            weight=weights.get(name, source.weight),
        )
        for name, source in setup.train.items()
        if not stage.sources or name in stage.sources
    ]
    if isinstance(stage, SftStage) and stage.rationales:
        return rationales.with_rationales(setup, stage, sources)
    return sources


def prepare(
    setup: Setup,
    name: str,
    stage: StageConfig,
    params: Params,
    *,
    loader: Loader,
    rollouts: RolloutLog,
    reference: Reference = "start",
) -> Prepared:
    """Make stage `name` ready; `params` are the policy that it starts from.

    Args:
      reference: that of a GRPO stage.
    """
    if isinstance(stage, WarmupStage):
        return _prepare_warmup(setup, name, stage, params, loader)
    if isinstance(stage, SftStage):
        return _prepare_sft(setup, name, stage, params, loader)
    assert isinstance(stage, GrpoStage)  # STAGE_KINDS has no other
    return prepare_grpo(
        setup, name, stage, params, loader=loader, rollouts=rollouts, reference=reference
    )


def policy_params(stage: StageConfig, params: Params) -> Params:
    """The policy among a stage's trained parameters."""
    return params["policy"] if isinstance(stage, WarmupStage) else params


def with_policy(stage: StageConfig, policy: Params) -> Params:
    """The part of a stage's trained parameters that holds the policy; undone by `policy_params`."""
    return {"policy": policy} if isinstance(stage, WarmupStage) else policy


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
    head = sharding.replicate(head, setup.mesh)
    units = setup.model.config.vision.merge_unit

    trained = {"policy": params, "head": head}
    training = programs.training(setup.model, stage, setup.mesh, trained)
    return Prepared(
        state=create_state(trained, training.optimizer),
        update=_single_update(training),
        source=LoaderSource(loader, lambda host: warmup_batch(host, setup.mesh, units)),
    )


def warmup_batch(host: PromptBatch, mesh: Mesh, merge_unit: int) -> batches.WarmupBatch:
    """The batch on the mesh; images that could not be read, black meanwhile, do not count."""
    mask = host.prompts.patch_mask & host.valid[:, None, None]
    prompts, mask = sharding.shard_rows((host.prompts, mask), mesh)
    num_tokens = _count(mask, divisor=merge_unit)
    return batches.WarmupBatch(prompts=prompts, mask=mask, num_tokens=num_tokens)


def _prepare_sft(
    setup: Setup, name: str, stage: SftStage, params: Params, loader: Loader
) -> Prepared:
    training = programs.training(adapters.model_of(setup, name), stage, setup.mesh, params)

    def batch_of(host: SftBatch) -> batches.SftBatch:
        rows = host.prompts, host.completion_ids, host.completion_mask
        prompts, ids, mask = sharding.shard_rows(rows, setup.mesh)
        return batches.SftBatch(
            prompts=prompts, completion_ids=ids, completion_mask=mask, num_tokens=_count(mask)
        )

    return Prepared(
        state=create_state(params, training.optimizer, trained=training.trained),
        update=_single_update(training),
        source=LoaderSource(loader, batch_of),
    )


@functools.partial(jax.jit, static_argnames="divisor")
def _count(mask: Array, divisor: int = 1) -> Array:
    """Float32 number of True values in the whole batch, on all processes, over `divisor`.

    At least 1, because it divides a sum: over no token of a batch without a readable image.
    """
    return jnp.maximum(mask.sum(dtype=jnp.int32) // divisor, 1).astype(jnp.float32)


def _longest_completion(setup: Setup, stage: StageConfig) -> int:
    if isinstance(stage, GrpoStage):
        return stage.sampling.max_new_tokens
    if isinstance(stage, SftStage):
        return max(setup.config.data.buckets.completion_lengths, default=0)
    return 0


def _single_update(training: programs.Training) -> Update:
    return lambda state, batch: training.update(state, batch)[:2]
