"""One device and a 2 x 2 x 2 mesh train and sample alike."""

import jax
import numpy as np
import optax
import pytest

from jaxqa import sharding, tree
from jaxqa.models.qwen2_5_vl import layout
from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig, TextConfig, VisionConfig
from jaxqa.models.qwen2_5_vl.inputs import stack_rows
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.objectives.entropy_gate import GateConfig
from jaxqa.objectives.grpo import GrpoConfig, loss_normalizer
from jaxqa.sampling.config import SamplingConfig
from jaxqa.sampling.keys import sample_keys
from jaxqa.sampling.sampler import Sampler
from jaxqa.train.batches import GrpoBatch, SftBatch
from jaxqa.train.losses import GrpoObjective, SftObjective
from jaxqa.train.state import create_state
from jaxqa.train.step import make_update

CONFIG = Qwen2_5_VLConfig(
    vision=VisionConfig(
        depth=1,
        hidden_size=16,
        intermediate_size=24,
        num_heads=2,
        out_hidden_size=32,
        fullatt_block_indexes=(0,),
    ),
    text=TextConfig(
        vocab_size=48,
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
    places = sharding.tree_shardings(MODEL.abstract_params(), sharding.QWEN2_5_VL_RULES, mesh)
    drawn = jax.device_get(jax.jit(MODEL.init)(jax.random.key(3)))
    return jax.device_put(drawn, places)


def sft_batch(mesh):
    ids, mask = host_completions()
    fields = dict(prompts=host_prompts(), completion_ids=ids, completion_mask=mask)
    return SftBatch(**sharding.shard_rows(fields | {"num_tokens": np.float32(mask.sum())}, mesh))


def grpo_batch(mesh):
    ids, mask = host_completions()
    rng = np.random.default_rng(2)
    old, reference = -rng.random((2, ROWS, GROUP, LENGTH)).astype(np.float32) * 4
    fields = dict(
        prompts=host_prompts(),
        completion_ids=ids,
        completion_mask=mask,
        sampler_log_probs=old,
        advantages=rng.normal(size=(ROWS, GROUP)).astype(np.float32),
        normalizer=np.float32(
            loss_normalizer(jax.numpy.asarray(mask), GrpoConfig(), max_length=LENGTH)
        ),
        old_log_probs=old,
        ref_log_probs=reference,
    )
    return GrpoBatch(**sharding.shard_rows(fields, mesh))


CASES = {
    "sft": (SftObjective(model=MODEL), sft_batch),
    "grpo": (
        GrpoObjective(model=MODEL, config=GrpoConfig(beta=0.1), gate=GateConfig(), temperature=0.9),
        grpo_batch,
    ),
}
_ONE_DEVICE = {}


@pytest.mark.parametrize(("case", "micro_batches"), [("sft", 1), ("grpo", 2)])
def test_loss_and_gradients_do_not_depend_on_the_mesh(mesh, params, case, micro_batches):
    objective, batch_of = CASES[case]
    # Plain descent at rate 1: the parameters' change is the gradient.
    optimizer = optax.sgd(1.0)
    update = make_update(
        objective,
        optimizer,
        learning_rate=optax.constant_schedule(1.0),
        micro_batches=micro_batches,
    )
    state = create_state(jax.tree.map(lambda leaf: leaf.copy(), params), optimizer)
    state, metrics, _ = update(state, batch_of(mesh))
    changes = jax.tree.map(lambda old, new: old - new, *jax.device_get((params, state.params)))
    expected = _ONE_DEVICE.setdefault(case, (float(metrics["loss"]), changes))
    assert float(metrics["loss"]) == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
    gradients, truths = tree.flatten(changes), tree.flatten(expected[1])
    scale = max(np.abs(truth).max() for truth in truths.values())
    for path, truth in truths.items():
        np.testing.assert_allclose(
            gradients[path], truth, rtol=1e-5, atol=1e-5 * scale, err_msg=path
        )


def test_rollouts_do_not_depend_on_the_mesh(mesh, params):
    sampler = Sampler(
        model=MODEL,
        config=SamplingConfig(num_samples=GROUP, max_new_tokens=LENGTH),
        stop_token_ids=(45,),
        pad_token_id=44,
    )
    keys = sample_keys(0, "grpo", 3, np.arange(ROWS), GROUP)
    rollout = jax.device_get(sampler(params, sharding.shard_rows(host_prompts(), mesh), keys))
    expected = _ONE_DEVICE.setdefault("rollout", rollout)
    np.testing.assert_array_equal(rollout.token_ids, expected.token_ids)
    np.testing.assert_allclose(rollout.log_probs, expected.log_probs, atol=1e-5)
    np.testing.assert_allclose(rollout.entropies, expected.entropies, atol=1e-5)
