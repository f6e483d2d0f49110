"""What a stage's programs read, as shapes with places on the mesh: nothing is allocated."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxqa import sharding, tree
from jaxqa.data.batching import Buckets
from jaxqa.models.qwen2_5_vl import layout, parts
from jaxqa.models.qwen2_5_vl.adapters import is_adapter
from jaxqa.models.qwen2_5_vl.inputs import Prompts, stack_rows
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.objectives import warmup
from jaxqa.sampling.keys import IMPLEMENTATION
from jaxqa.sampling.sampler import Sampler
from jaxqa.stages.sections import GrpoStage
from jaxqa.train.batches import GrpoBatch, SftBatch, WarmupBatch
from jaxqa.train.groups import Groups
from jaxqa.train.rollout import grpo_batch
from jaxqa.typing import Params


def policy(model: Qwen2_5_VL, mesh: Mesh) -> Params:
    """The policy's parameters; under adapters, as a stage that trains them holds the rest."""
    shapes = model.abstract_params()
    places = sharding.tree_shardings(shapes, sharding.QWEN2_5_VL_RULES, mesh)
    placed = jax.tree.map(_placed, shapes, places)
    if not model.lora.rank:
        return placed
    trained, base = tree.split(placed, is_adapter)
    return tree.join(trained, compute_copy(base, model.compute_dtype))


def compute_copy(params: Params, dtype: str) -> Params:
    """What `parts.compute_copy` makes of placed shapes, in the same places."""
    copy = functools.partial(parts.compute_copy, dtype=dtype, own=False)
    return jax.tree.map(
        lambda shape, leaf: _placed(shape, leaf.sharding), jax.eval_shape(copy, params), params
    )


def sampling_copy(params: Params, dtype: str, mesh: sharding.MeshConfig) -> Params:
    """What `Setup.sampling_copy` makes of placed shapes."""
    copy = compute_copy(params, dtype)
    if not mesh.gather_for_sampling:
        return copy
    return jax.tree.map(
        lambda leaf: _placed(leaf, sharding.whole_along(leaf.sharding, "fsdp")), copy
    )


def warmup_head(model: Qwen2_5_VL, mesh: Mesh) -> Params:
    """The head that a warm-up trains beside the policy."""
    width = model.config.vision.out_hidden_size
    shapes = jax.eval_shape(lambda: warmup.init_head(jax.random.key(0), width))
    return jax.tree.map(lambda leaf: _placed(leaf, sharding.replicated(mesh)), shapes)


def prompts(model: Qwen2_5_VL, buckets: Buckets, rows: int, mesh: Mesh) -> Prompts:
    """Prompts of the largest bucket, as `stack_rows` makes them."""
    text = np.array([model.config.pad_token_id], np.int32)
    one = stack_rows(
        [layout.build_row(text, [], model.config)],
        prompt_length=buckets.prompt_lengths[-1],
        num_windows=buckets.window_counts[-1],
    )
    return _by_rows(jax.tree.map(lambda leaf: _like(leaf, rows), one), mesh)


def keys(rows: int, num_samples: int, mesh: Mesh) -> jax.ShapeDtypeStruct:
    """Keys of samples, as `sample_keys` makes them."""
    one = jax.eval_shape(lambda: jax.random.key(0, impl=IMPLEMENTATION))
    return _by_rows(jax.ShapeDtypeStruct((rows, num_samples), one.dtype), mesh)


def grpo(
    stage: GrpoStage, sampler: Sampler, inputs: tuple[Params, Prompts, Any], mesh: Mesh
) -> GrpoBatch:
    """What a rollout of the longest completions becomes; `inputs` are the sampler's."""
    # Rows of the longest: nobody looks how many have ended.
    whole = dataclasses.replace(sampler, row_blocks=0)
    rollout = jax.eval_shape(whole, *inputs)
    groups = Groups(
        prompts=inputs[1],
        completion_ids=rollout.token_ids,
        completion_mask=rollout.mask,
        log_probs=rollout.log_probs,
        entropies=rollout.entropies,
        advantages=_shape(rollout.length.shape, np.float32),
    )
    build = functools.partial(
        grpo_batch,
        objective=stage.objective,
        max_length=stage.sampling.max_new_tokens,
    )
    used = None if stage.filter.tau is None else jax.ShapeDtypeStruct((), np.int32)
    reference = rollout.log_probs if stage.objective.beta else None
    gate = rollout.mask if stage.gate.source == "sampler" else None
    batch = jax.eval_shape(build, groups, used=used, reference=reference, gate=gate)
    return _by_rows(batch, mesh)


def sft(prompts: Prompts, buckets: Buckets, mesh: Mesh) -> SftBatch:
    """Prompts with one completion of the largest bucket each."""
    shape = (prompts.token_ids.shape[0], 1, buckets.completion_lengths[-1])
    batch = SftBatch(
        prompts=prompts,
        completion_ids=_shape(shape, np.int32),
        completion_mask=_shape(shape, np.bool_),
        num_tokens=_shape((), np.float32),
    )
    return _by_rows(batch, mesh)


def warm_up(prompts: Prompts, mesh: Mesh) -> WarmupBatch:
    """Prompts, whose images are all that counts."""
    count = _shape((), np.float32)
    batch = WarmupBatch(prompts=prompts, mask=prompts.patch_mask, num_tokens=count)
    return _by_rows(batch, mesh)


def _shape(shape: tuple[int, ...], dtype: Any) -> Any:
    """A shape where an array is declared."""
    return jax.ShapeDtypeStruct(shape, dtype)


def _placed(leaf: Any, place: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def _like(leaf: Any, rows: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype)


def _by_rows(tree: Any, mesh: Mesh) -> Any:
    """Rows split over the batch axes, scalars on every device, as `sharding.shard_rows` does."""
    rows = NamedSharding(mesh, P(sharding.BATCH_AXES))
    whole = sharding.replicated(mesh)
    return jax.tree.map(lambda leaf: _placed(leaf, rows if leaf.ndim else whole), tree)
