"""Several updates on one rollout, in micro-batches, against torch: the whole update but the model.

The model is a table: the logits of a token are its row times the table.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxqa import sharding
from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig, TextConfig, VisionConfig
from jaxqa.models.qwen2_5_vl.inputs import Prompts
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.objectives.entropy_gate import GateConfig, high_entropy_tokens
from jaxqa.objectives.grpo import GrpoConfig, loss_normalizer
from jaxqa.rewards.registry import RewardTerm
from jaxqa.sampling.config import SamplingConfig
from jaxqa.stages import grpo, programs
from jaxqa.stages.sections import GrpoStage
from jaxqa.train.batches import GrpoBatch
from jaxqa.train.groups import Groups, to_front
from jaxqa.train.losses import GrpoObjective
from jaxqa.train.micro_batches import micro_batch_rows
from jaxqa.train.state import create_state

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

VOCABULARY, WIDTH, ROWS, GROUP, LENGTH, LONGEST = 12, 4, 4, 3, 5, 7
TEMPERATURE, RATE, RHO = 0.8, 2.0, 0.3
MESH = sharding.make_mesh(sharding.MeshConfig())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table(Qwen2_5_VL):
    """One table is all of its parameters."""

    def group_hidden(self, params, prompts, completion_ids):
        return params["kernel"][completion_ids]

    def head(self, params):
        return params["kernel"]


MODEL = Table(
    config=Qwen2_5_VLConfig(
        vision=VisionConfig(
            depth=1,
            hidden_size=8,
            intermediate_size=8,
            num_heads=1,
            out_hidden_size=8,
            fullatt_block_indexes=(0,),
        ),
        text=TextConfig(
            vocab_size=VOCABULARY,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            mrope_section=(1, 1, 2),
        ),
        **dict(image_token_id=5, video_token_id=6, vision_start_token_id=7),
        **dict(vision_end_token_id=8, bos_token_id=9, eos_token_id=10, pad_token_id=9),
    )
)


def host_groups(seed: int, *, length: int = LENGTH) -> Groups:
    rng = np.random.default_rng(seed)
    shape = (ROWS, GROUP, length)
    fields = {field.name: np.zeros((ROWS, 1), np.int32) for field in dataclasses.fields(Prompts)}
    return Groups(
        prompts=Prompts(**fields),
        completion_ids=rng.integers(0, VOCABULARY, shape).astype(np.int32),
        completion_mask=np.arange(length) < rng.integers(1, length + 1, (ROWS, GROUP, 1)),
        log_probs=-rng.uniform(1, 3, shape).astype(np.float32),  # also the reference's
        entropies=rng.uniform(0, 3, shape).astype(np.float32),
        advantages=rng.normal(size=(ROWS, GROUP)).astype(np.float32) * 2,
    )


def expected(host: Groups, kept, kernel, config: GrpoConfig, gate: GateConfig, updates: int):
    """Parameters and last loss after plain descent on the kept groups alone, in float64."""
    kernel = torch.tensor(kernel, dtype=torch.float64, requires_grad=True)
    ids, mask, ref, entropies, advantages = (
        torch.tensor(np.asarray(value)[kept])
        for value in (
            *(host.completion_ids, host.completion_mask, host.log_probs),
            *(host.entropies, host.advantages),
        )
    )
    old = None
    for _ in range(updates):
        log_p = torch.log_softmax(kernel[ids.long()] @ kernel.T / TEMPERATURE, dim=-1)
        new = log_p.gather(-1, ids.long()[..., None])[..., 0]
        own = -(log_p.exp() * log_p).sum(-1).detach()
        old = new.detach() if old is None else old
        gated = {"none": mask, "sampler": entropies, "policy": own}[gate.source]
        if gate.source != "none":
            gated = mask & (gated >= np.quantile(gated[mask].numpy(), 1 - RHO, method="higher"))
        loss = torch_loss(new, old, ref, advantages[..., None], mask, gated, config)
        (slope,) = torch.autograd.grad(loss, kernel)
        kernel = (kernel - RATE * slope).detach().requires_grad_()
    return kernel.detach().numpy(), loss.item()


def torch_loss(new, old, ref, advantages, mask, gated, config: GrpoConfig):
    lengths = mask.sum(-1)
    low, high, log_ratio = config.clip_low, config.clip_high, new - old
    if config.ratio_level == "sequence":
        low, high = config.sequence_clip_low, config.sequence_clip_high
        log_ratio = (((new - old) * mask).sum(-1) / lengths)[..., None].expand(new.shape)
    ratio = log_ratio.exp()
    policy = torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    kl = (ref - new).exp() - (ref - new) - 1
    each = -policy * gated + config.beta * kl * mask
    if config.aggregation == "token_mean":
        return (each * mask).sum() / lengths.sum()
    sums = (each * mask).sum(-1)
    return (sums / (lengths if config.aggregation == "sequence_mean" else LONGEST)).mean()


@functools.cache
def stage_update(config: GrpoConfig, gate: GateConfig, parts: int, updates: int):
    """The stage's own."""
    stage = GrpoStage(
        steps=1,
        batch_size=ROWS,
        rewards={"gaussian": RewardTerm(name="gaussian", options={"sigma": 0.8})},
        objective=config,
        gate=gate,
        sampling=SamplingConfig(num_samples=GROUP, max_new_tokens=LONGEST),
        micro_batches=parts,
        updates_per_rollout=updates,
    )
    objective = GrpoObjective(model=MODEL, config=config, gate=gate, temperature=TEMPERATURE)
    update = programs.stage_update(objective, optax.sgd(RATE), stage)
    return grpo._grpo_update(update, stage.updates_per_rollout)


def trained(host: Groups, kept, kernel, config: GrpoConfig, gate: GateConfig, parts, updates):
    """The same as `expected` by the stage's own update."""
    groups = to_front(sharding.shard_rows(host, MESH), kept, micro_batches=parts, mesh=MESH)
    mask, passes = groups.completion_mask, None
    if gate.source == "sampler":
        passes = high_entropy_tokens(groups.entropies, mask, rho=gate.rho)
    batch = GrpoBatch(
        prompts=groups.prompts,
        completion_ids=groups.completion_ids,
        completion_mask=mask,
        sampler_log_probs=groups.log_probs,
        advantages=groups.advantages,
        normalizer=loss_normalizer(mask, config, max_length=LONGEST),
        gate=passes,
        micro_batches=jnp.int32(-(-int(kept.sum()) * parts // ROWS)),
        ref_log_probs=groups.log_probs,
    )
    params = jax.device_put({"kernel": kernel}, sharding.replicated(MESH))
    update = stage_update(config, gate, parts, updates)
    state, metrics = update(create_state(params, optax.sgd(RATE)), batch)
    assert int(state.step) == 1
    return np.asarray(state.params["kernel"]), metrics


NONE, SAMPLER, POLICY = (GateConfig(source=s, rho=RHO) for s in ("none", "sampler", "policy"))
GSPO = GrpoConfig(ratio_level="sequence", sequence_clip_low=0.02, sequence_clip_high=0.03)
CASES = [
    (GrpoConfig(beta=0.1), NONE, 2, 3),
    (GrpoConfig(clip_high=0.28, aggregation="token_mean"), SAMPLER, 4, 2),
    (GrpoConfig(aggregation="dr_grpo", beta=0.02), SAMPLER, 1, 2),
    (GrpoConfig(aggregation="token_mean"), POLICY, 1, 2),
    (GSPO, NONE, 2, 3),
]


@pytest.mark.parametrize("kept", [[1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 1], [1, 1, 0, 1]])
@pytest.mark.parametrize(("config", "gate", "parts", "updates"), CASES)
def test_updates_equal_torch(config, gate, parts: int, updates: int, kept):
    kept, host = np.array(kept, bool), host_groups(sum(kept))
    kernel = np.random.default_rng(9).normal(size=(VOCABULARY, WIDTH)).astype(np.float32) * 0.7
    found, metrics = trained(host, kept, kernel, config, gate, parts, updates)
    truth, loss = expected(host, kept, kernel, config, gate, updates)
    assert np.abs(truth - kernel).max() > 0.01
    np.testing.assert_allclose(found, truth, rtol=2e-4, atol=2e-5)
    assert float(metrics["loss"]) == pytest.approx(loss, rel=2e-4, abs=1e-5)
    assert float(metrics["micro_batches"]) == np.ceil(kept.sum() / (ROWS // parts))
    if updates == 3:
        assert float(metrics["clip_fraction"].compute()) > 0  # the clip had something to do


def test_nothing_kept_moves_nothing():
    host, kernel = host_groups(0), np.ones((VOCABULARY, WIDTH), np.float32)
    found, metrics = trained(host, np.zeros(4, bool), kernel, *CASES[0])
    np.testing.assert_array_equal(found, kernel)
    assert float(metrics["loss"]) == float(metrics["grad_norm"]) == 0.0


def test_completions_of_one_token():
    host = host_groups(5, length=1)
    kernel = np.random.default_rng(9).normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
    kept = np.array([1, 0, 1, 1], bool)
    config, gate, parts, updates = CASES[1]
    found, _ = trained(host, kept, kernel, config, gate, parts, updates)
    truth, _ = expected(host, kept, kernel, config, gate, updates)
    np.testing.assert_allclose(found, truth, rtol=2e-4, atol=2e-5)


def test_rows_of_micro_batches_are_a_permutation():
    np.testing.assert_array_equal(micro_batch_rows(6, 3), [0, 3, 1, 4, 2, 5])
    np.testing.assert_array_equal(micro_batch_rows(4, 1), [0, 1, 2, 3])
