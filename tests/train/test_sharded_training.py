"""One device and meshes of eight train and sample alike."""

import dataclasses

import hlo_text
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxqa import sharding, tree
from jaxqa.models.qwen2_5_vl import layout
from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig, TextConfig, VisionConfig
from jaxqa.models.qwen2_5_vl.inputs import stack_rows
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.objectives.entropy_gate import GateConfig, high_entropy_tokens
from jaxqa.objectives.grpo import GrpoConfig, loss_normalizer
from jaxqa.sampling.config import SamplingConfig
from jaxqa.sampling.keys import sample_keys
from jaxqa.sampling.sampler import Sampler
from jaxqa.train.batches import GrpoBatch, SftBatch
from jaxqa.train.groups import Groups, to_front
from jaxqa.train.losses import GrpoObjective, SftObjective
from jaxqa.train.state import create_state
from jaxqa.train.step import make_update

CONFIG = Qwen2_5_VLConfig(
    vision=VisionConfig(
        depth=1,
        hidden_size=16,
        intermediate_size=27,  # which no `tensor` divides, as 8 does not divide 3,420
        num_heads=2,
        out_hidden_size=32,
        fullatt_block_indexes=(0,),
    ),
    text=TextConfig(
        vocab_size=52,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        mrope_section=(1, 1, 2),
    ),
    **dict(image_token_id=40, video_token_id=41, vision_start_token_id=42),
    **dict(vision_end_token_id=43, bos_token_id=44, eos_token_id=45, pad_token_id=44),
    initializer_range=0.3,
)
MODEL = Qwen2_5_VL(config=CONFIG)
ROWS, GROUP, LENGTH = 8, 2, 5
MESHES = {
    "one device": sharding.MeshConfig(),
    "2 x 2 x 2": sharding.MeshConfig(data=2, fsdp=2, tensor=2),
}


def host_prompts():
    rng = np.random.default_rng(0)
    rows = []
    for number in range(ROWS):
        text = rng.integers(0, 40, 2 + number % 3)
        ids = np.concatenate([text, [42], [40] * 4, [43], text]).astype(np.int32)
        image = rng.integers(0, 256, (56, 56, 3)).astype(np.uint8)
        rows.append(layout.build_row(ids, [image], CONFIG))
    return stack_rows(rows, prompt_length=16, num_windows=1)


def host_completions():
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 40, (ROWS, GROUP, LENGTH)).astype(np.int32)
    lengths = rng.integers(1, LENGTH + 1, (ROWS, GROUP))
    return ids, np.arange(LENGTH) < lengths[..., None]


@pytest.fixture(scope="module", params=MESHES)
def mesh(request):
    return sharding.make_mesh(MESHES[request.param])


@pytest.fixture(scope="module")
def params(mesh):
    return placed(mesh)


def placed(mesh):
    places = sharding.tree_shardings(MODEL.abstract_params(), sharding.QWEN2_5_VL_RULES, mesh)
    drawn = jax.device_get(jax.jit(MODEL.init)(jax.random.key(3)))
    return jax.device_put(drawn, places)


def sft_batch(mesh):
    ids, mask = host_completions()
    fields = dict(prompts=host_prompts(), completion_ids=ids, completion_mask=mask)
    return SftBatch(**sharding.shard_rows(fields | {"num_tokens": np.float32(mask.sum())}, mesh))


OBJECTIVE = GrpoObjective(
    model=MODEL,
    config=GrpoConfig(beta=0.1, aggregation="token_mean"),
    gate=GateConfig(),
    temperature=0.9,
)
KEPT = np.array([0, 1, 1, 0, 0, 1, 1, 1], bool)


def host_groups():
    ids, mask = host_completions()
    rng = np.random.default_rng(2)
    log_probs, entropies = rng.random((2, ROWS, GROUP, LENGTH)).astype(np.float32) * 4
    return Groups(
        prompts=host_prompts(),
        completion_ids=ids,
        completion_mask=mask,
        log_probs=-log_probs,
        entropies=entropies,
        advantages=rng.normal(size=(ROWS, GROUP)).astype(np.float32),
    )


def grpo_batch(groups):
    """The sampler's log-probabilities stand in for the reference's."""
    mask = groups.completion_mask
    return GrpoBatch(
        prompts=groups.prompts,
        completion_ids=groups.completion_ids,
        completion_mask=mask,
        sampler_log_probs=groups.log_probs,
        advantages=groups.advantages,
        normalizer=loss_normalizer(mask, OBJECTIVE.config, max_length=LENGTH),
        gate=high_entropy_tokens(groups.entropies, mask, rho=0.4),
        ref_log_probs=groups.log_probs,
    )


_ONE_DEVICE = {}


def descend(params, objective, batch, *, micro_batches=1, used=None):
    """Loss and gradients: plain descent at rate 1, so the parameters' change is the gradient."""
    optimizer = optax.sgd(1.0)
    update = make_update(
        objective,
        optimizer,
        learning_rate=optax.constant_schedule(1.0),
        micro_batches=micro_batches,
    )
    state = create_state(jax.tree.map(lambda leaf: leaf.copy(), params), optimizer)
    state, metrics, _ = update(state, batch, used=used)
    changes = jax.tree.map(lambda old, new: old - new, *jax.device_get((params, state.params)))
    return metrics, tree.flatten(changes)


def assert_same(found, expected):
    (metrics, gradients), (loss, truths) = found, expected
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-5, abs=1e-6)
    scale = max(np.abs(truth).max() for truth in truths.values())
    assert scale > 0
    for path, truth in truths.items():
        np.testing.assert_allclose(
            gradients[path], truth, rtol=1e-5, atol=1e-5 * scale, err_msg=path
        )


def test_loss_and_gradients_do_not_depend_on_the_mesh(mesh, params):
    found = descend(params, SftObjective(model=MODEL, mesh=mesh), sft_batch(mesh))
    assert_same(found, _ONE_DEVICE.setdefault("sft", (float(found[0]["loss"]), found[1])))


def test_more_tensor_devices_than_key_value_heads():
    """Parts of two heads lie on four devices, and travel."""
    found = []
    for config in (sharding.MeshConfig(), sharding.MeshConfig(fsdp=2, tensor=4)):
        mesh = sharding.make_mesh(config)
        objective = SftObjective(model=MODEL, mesh=mesh)
        found.append(descend(placed(mesh), objective, sft_batch(mesh)))
    (metrics, gradients), other = found
    assert_same(other, (float(metrics["loss"]), gradients))


def test_training_gathers_no_column_of_the_head(mesh, params):
    if mesh.shape["tensor"] == 1:
        pytest.skip("the head is whole")
    loss = jax.value_and_grad(SftObjective(model=MODEL, mesh=mesh), has_aux=True)
    program = jax.jit(loss).lower(params, sft_batch(mesh)).compile()
    for one in hlo_text.collectives(program.as_text()):
        if one.kind == "all-gather" and one.spans(mesh, "tensor"):
            looked_up = "_take" in one.name  # the table of the prompt's embeddings
            assert looked_up or CONFIG.text.vocab_size not in one.shape, one


def test_what_the_filter_leaves_trains_alike_on_any_mesh(mesh, params):
    """Five of eight groups in three of four micro-batches; the truth masks the others in place."""
    groups = sharding.shard_rows(host_groups(), mesh)
    if "grpo" not in _ONE_DEVICE:
        assert mesh.size == 1
        mask = groups.completion_mask & jnp.asarray(KEPT)[:, None, None]
        plain = grpo_batch(dataclasses.replace(groups, completion_mask=mask))
        metrics, truths = descend(params, OBJECTIVE, plain)
        _ONE_DEVICE["grpo"] = float(metrics["loss"]), truths
    packed = grpo_batch(to_front(groups, KEPT, micro_batches=4, mesh=mesh))
    used = jax.device_put(np.int32(3), sharding.replicated(mesh))
    objective = dataclasses.replace(OBJECTIVE, mesh=mesh)
    found = descend(params, objective, packed, micro_batches=4, used=used)
    assert float(found[0]["micro_batches"]) == 3
    assert_same(found, _ONE_DEVICE["grpo"])


def test_rollouts_do_not_depend_on_the_mesh(mesh, params):
    sampler = Sampler(
        model=MODEL,
        config=SamplingConfig(num_samples=GROUP, max_new_tokens=LENGTH),
        stop_token_ids=(45,),
        pad_token_id=44,
        mesh=mesh,
    )
    keys = sample_keys(0, "grpo", 3, np.arange(ROWS), GROUP)
    rollout = jax.device_get(sampler(params, sharding.shard_rows(host_prompts(), mesh), keys))
    expected = _ONE_DEVICE.setdefault("rollout", rollout)
    np.testing.assert_array_equal(rollout.token_ids, expected.token_ids)
    np.testing.assert_allclose(rollout.log_probs, expected.log_probs, atol=1e-5)
    np.testing.assert_allclose(rollout.entropies, expected.entropies, atol=1e-5)
