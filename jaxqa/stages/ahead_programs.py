"""What the stages of a run compile, at their largest shapes; nothing is allocated."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from jaxqa import sharding, tree
from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl.adapters import is_adapter
from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.stages import abstract, adapters, compiled, programs
from jaxqa.stages.config import RunConfig
from jaxqa.stages.sections import GrpoStage, SftStage, StageConfig, WarmupStage
from jaxqa.typing import Params

PROGRAMS = ("rollout", "reference", "update")
STRETCHES = ("prefill", "decode")
"""Of a rollout: prefill with the first stretch of decoding, and the last stretch."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """One compiled call of a stage.

    Attributes:
      name: what it does.
      lower: lowers it.
      donated: arrays that it is given for good.
      beside: bytes on a chip that wait meanwhile and are not among its arguments.
    """

    name: str
    lower: Callable[[], jax.stages.Lowered]
    donated: Any = ()
    beside: int = 0


def stage_programs(
    config: RunConfig,
    name: str,
    architecture: Qwen2_5_VLConfig,
    mesh: Mesh,
    *,
    wanted: Collection[str] = PROGRAMS,
) -> Iterator[Program]:
    """What stage `name` compiles for its largest shapes; nothing if it does not train.

    Args:
      config, name, architecture, mesh: of the run.
      wanted: names out of PROGRAMS and STRETCHES.

    Raises:
      UserError: its rows do not divide over the mesh.
    """
    stage = config.sections[name]
    if not isinstance(stage, StageConfig):
        return
    sharding.check_rows(
        stage.batch_size // stage.micro_batches,
        mesh,
        name=f"rows of a micro-batch of config.{name}",
    )
    model = dataclasses.replace(
        config.model.policy(architecture, mesh), lora=adapters.lora_of(config, name)
    )
    if not isinstance(stage, GrpoStage):
        found = iter([_update_program(config, stage, model, mesh)])
    else:
        found = _grpo_programs(config, name, stage, model, mesh, wanted)
    yield from (program for program in found if program.name in wanted)


def _update_program(
    config: RunConfig, stage: StageConfig, model: Qwen2_5_VL, mesh: Mesh
) -> Program:
    params, buckets = abstract.policy(model, mesh), config.data.buckets
    prompts = abstract.prompts(model, buckets, stage.batch_size, mesh)
    if isinstance(stage, WarmupStage):
        params = {"policy": params, "head": abstract.warmup_head(model, mesh)}
        batch: Any = abstract.warm_up(prompts, mesh)
    else:
        assert isinstance(stage, SftStage)  # STAGE_KINDS has no other
        if not buckets.completion_lengths:
            raise UserError("config.data.buckets.completion_lengths: none, so nothing to imitate")
        batch = abstract.sft(prompts, buckets, mesh)
    training = programs.training(model, stage, mesh, params)
    return Program(
        name="update",
        lower=lambda: training.update.lower(training.state, batch),
        donated=training.state,
    )


def _grpo_programs(
    config: RunConfig,
    name: str,
    stage: GrpoStage,
    model: Qwen2_5_VL,
    mesh: Mesh,
    wanted: Collection[str],
) -> Iterator[Program]:
    """Sampling, its stretches if wanted, the reference of a KL penalty, and the update."""
    params = abstract.policy(model, mesh)
    copy = abstract.sampling_copy(params, model.compute_dtype, config.mesh)
    training = programs.training(model, stage, mesh, params)
    tokens = model.config
    sampler = programs.policy_sampler(
        model,
        stage,
        mesh,
        stop_token_ids=(tokens.eos_token_id, tokens.bos_token_id),
        pad_token_id=tokens.pad_token_id,
    )
    state = training.state
    prompts = abstract.prompts(model, config.data.buckets, stage.batch_size, mesh)
    keys = abstract.keys(stage.batch_size, stage.sampling.num_samples, mesh)
    batch = abstract.grpo(stage, sampler, (copy, prompts, keys), mesh)
    reference = _reference(config, name, model, mesh)
    waiting = 0 if stage.reference_placement == "host" else compiled.bytes_on_chip(reference.kept)
    resting = compiled.bytes_on_chip((state.opt_state, _copied(params, copy))) + waiting
    yield Program(name="rollout", lower=lambda: sampler.lower(copy, prompts, keys), beside=resting)
    if len(sampler.stops) > 1:
        begin = functools.partial(sampler.lower_first, copy, prompts, keys)
        yield Program(name="prefill", lower=begin, beside=resting)
        if "decode" in wanted:  # what it is given is known once the first stretch is compiled
            last, given = sampler.lower_last(copy, begin())
            yield Program(name="decode", lower=lambda: last, donated=given, beside=resting)
    used = batch.micro_batches
    if stage.objective.beta:
        log_probs = programs.reference_log_probs(reference.model, stage, mesh)
        rows = prompts, batch.completion_ids
        yield Program(
            name="reference",
            lower=lambda: log_probs.lower(tree.join(reference.shared, reference.kept), rows, used),
            beside=compiled.bytes_on_chip(state) - compiled.bytes_on_chip(reference.shared),
        )
    yield Program(
        name="update",
        lower=lambda: training.update.lower(state, batch, advance=True, used=used),
        donated=state,
        beside=waiting,
    )


@dataclass(frozen=True, kw_only=True)
class _Reference:
    """The frozen policy of a KL penalty, as `jaxqa.stages.grpo` keeps it.

    Attributes:
      model: that computes with it.
      kept: parameters of its own.
      shared: those of the current policy that are its too.
    """

    model: Qwen2_5_VL
    kept: Params
    shared: Params


def _reference(config: RunConfig, name: str, model: Qwen2_5_VL, mesh: Mesh) -> _Reference:
    plain = dataclasses.replace(model, lora=adapters.NO_ADAPTERS)
    if not config.sections[name].objective.beta:
        return _Reference(model=plain, kept={}, shared={})
    kind, _ = adapters.reference_of(config, name)
    if kind == "other" or not model.lora.rank:
        kept = abstract.compute_copy(abstract.policy(plain, mesh), model.compute_dtype)
        return _Reference(model=plain, kept=kept, shared={})
    trained, shared = tree.split(abstract.policy(model, mesh), is_adapter)
    if kind == "base":
        return _Reference(model=plain, kept={}, shared=shared)
    kept = abstract.compute_copy(trained, model.compute_dtype)
    return _Reference(model=model, kept=kept, shared=shared)


def _copied(params: Params, copy: Params) -> list[Any]:
    """Those of `params` that the sampler's copy holds a second time: in other dtypes or places."""
    both = zip(jax.tree.leaves(params), jax.tree.leaves(copy), strict=True)
    return [a for a, b in both if a.dtype != b.dtype or a.sharding != b.sharding]
