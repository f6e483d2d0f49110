import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from jaxqa.metrics.states import Mean
from jaxqa.objectives.grpo import GrpoConfig, grpo_loss, loss_normalizer

CONFIGS = [
    GrpoConfig(),
    GrpoConfig(aggregation="token_mean"),
    GrpoConfig(beta=0.04, clip_high=0.28),
    GrpoConfig(beta=0.5, clip_low=0.1, aggregation="token_mean"),
    GrpoConfig(beta=0.1, aggregation="dr_grpo"),
    GrpoConfig(ratio_level="sequence", sequence_clip_low=0.1, sequence_clip_high=0.15),
    GrpoConfig(ratio_level="sequence", sequence_clip_low=0.1, aggregation="token_mean", beta=0.1),
]
MAX_LENGTH = 9  # longer than any of the completions below


GATED = ("mask", "gate")


def _rollout(
    seed: int,
    *,
    rows: int = 4,
    group: int = 3,
    length: int = 6,
    spread: float = 0.3,
    gated: bool = False,
):
    """Log-probabilities near each other, completions of every length, rubbish at the pads."""
    rng = np.random.default_rng(seed)
    shape = (rows, group, length)
    log_probs = -rng.uniform(0.1, 3, shape)
    old, ref = (log_probs + rng.normal(0, spread, shape) for _ in range(2))
    lengths = rng.integers(1, length + 1, (rows, group))
    mask = np.arange(length) < lengths[..., None]
    arrays = [np.where(mask, x, 1e4).astype(np.float32) for x in (log_probs, old, ref)]
    advantages = rng.normal(size=(rows, group)).astype(np.float32)
    gate = {"gate": jnp.asarray(rng.uniform(size=shape) < 0.4)} if gated else {}
    return gate | {
        "log_probs": jnp.asarray(arrays[0]),
        "old_log_probs": jnp.asarray(arrays[1]),
        "ref_log_probs": jnp.asarray(arrays[2]),
        "advantages": jnp.asarray(advantages),
        "mask": jnp.asarray(mask),
    }


def _normalizer(rollout, config: GrpoConfig):
    return loss_normalizer(rollout["mask"], config, max_length=MAX_LENGTH)


@functools.partial(jax.jit, static_argnames="config")
def _loss_and_gradient(rollout, config: GrpoConfig, normalizer=None):
    def loss(log_probs):
        scale = _normalizer(rollout, config) if normalizer is None else normalizer
        arguments = {**rollout, "log_probs": log_probs}
        return grpo_loss(**arguments, config=config, normalizer=scale)

    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(rollout["log_probs"])
    return value, metrics, gradient


def _numpy(rollout, config: GrpoConfig) -> dict[str, float]:
    """Token by token, in float64."""
    new, old, ref, advantages = (
        np.asarray(rollout[name], np.float64)
        for name in ("log_probs", "old_log_probs", "ref_log_probs", "advantages")
    )
    mask = np.asarray(rollout["mask"])
    gate = np.asarray(rollout.get("gate", mask))
    policy, kl, clipped, ratios = (np.zeros(mask.shape) for _ in range(4))
    low, high = 1 - config.clip_low, 1 + config.clip_high
    if config.ratio_level == "sequence":
        low, high = 1 - config.sequence_clip_low, 1 + config.sequence_clip_high
    for b, g, t in zip(*np.nonzero(mask), strict=True):
        real, advantage = mask[b, g], advantages[b, g]
        ratio = np.exp(new[b, g, t] - old[b, g, t])
        if config.ratio_level == "sequence":
            ratio = np.exp(np.mean(new[b, g, real] - old[b, g, real]))
        limited = min(max(ratio, low), high)
        policy[b, g, t] = -min(ratio * advantage, limited * advantage) * gate[b, g, t]
        gap = ref[b, g, t] - new[b, g, t]
        kl[b, g, t] = np.exp(gap) - gap - 1
        ratios[b, g, t] = ratio
        clipped[b, g, t] = ratio > high if advantage > 0 else ratio < low

    def aggregate(values):
        if config.aggregation == "token_mean":
            return values.sum() / mask.sum()
        lengths = MAX_LENGTH if config.aggregation == "dr_grpo" else mask.sum(-1)
        return np.mean(values.sum(-1) / lengths)

    expected = {
        "loss": aggregate(policy) + config.beta * aggregate(kl),
        "policy_loss": aggregate(policy),
        "kl": kl.sum() / mask.sum(),
        "ratio": ratios.sum() / mask.sum(),
        "clip_fraction": clipped.sum() / mask.sum(),
        "completion_length": mask.sum(-1).mean(),
    }
    gated = {"gate_fraction": gate[mask].mean()} if "gate" in rollout else {}
    return expected | gated


def _value(metric) -> float:
    return float(metric.compute() if isinstance(metric, Mean) else metric)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("seed", "gated"), [(0, False), (1, False), (2, True)])
def test_loss_and_metrics_equal_numpy(config: GrpoConfig, seed: int, gated: bool):
    rollout = _rollout(seed, gated=gated)
    loss, metrics, _ = _loss_and_gradient(rollout, config)
    expected = _numpy(rollout, config)
    assert 0.05 < expected["clip_fraction"] < 0.95
    np.testing.assert_allclose(loss, expected.pop("loss"), rtol=1e-5, atol=1e-6)
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(_value(metrics[name]), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", CONFIGS)
def test_gradient_equals_finite_differences(config: GrpoConfig):
    rollout = _rollout(7)
    gradient = np.asarray(_loss_and_gradient(rollout, config)[2])
    mask, step = np.asarray(rollout["mask"]), 1e-6
    new = np.asarray(rollout["log_probs"], np.float64)
    expected = np.zeros(mask.shape)
    for index in zip(*np.nonzero(mask), strict=True):
        up, down = new.copy(), new.copy()
        up[index] += step
        down[index] -= step
        high, low = (_numpy({**rollout, "log_probs": x}, config)["loss"] for x in (up, down))
        expected[index] = (high - low) / (2 * step)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
    assert (gradient[~mask] == 0).all()


@pytest.mark.torch
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("config", CONFIGS)
def test_gradient_equals_torch(config: GrpoConfig, gated: bool):
    torch = pytest.importorskip("torch")
    rollout = _rollout(11, gated=gated)
    gradient = _loss_and_gradient(rollout, config)[2]
    mask, gate = (torch.tensor(np.asarray(rollout.get(k, rollout["mask"]))) for k in GATED)
    new, old, ref, advantages = (
        torch.tensor(np.asarray(rollout[name], np.float64))
        for name in ("log_probs", "old_log_probs", "ref_log_probs", "advantages")
    )
    new = new.masked_fill(~mask, 0).requires_grad_()
    lengths = mask.sum(-1)
    log_ratio = (new - old.masked_fill(~mask, 0)) * mask
    low, high = config.clip_low, config.clip_high
    if config.ratio_level == "sequence":
        low, high = config.sequence_clip_low, config.sequence_clip_high
        mean = (log_ratio.sum(-1) / lengths)[..., None]
        # One ratio per completion; behind a gate, each token's share of its gradient.
        log_ratio = mean.detach() + new - new.detach() if gated else mean.expand(new.shape)
    ratio = log_ratio.exp()
    limited = ratio.clamp(1 - low, 1 + high)
    advantages = advantages[..., None]
    gap = ref.masked_fill(~mask, 0) - new
    each = -torch.minimum(ratio * advantages, limited * advantages) * gate
    each = (each + config.beta * (gap.exp() - gap - 1)) * mask
    loss = {
        "sequence_mean": lambda: (each.sum(-1) / lengths).mean(),
        "token_mean": lambda: each.sum() / lengths.sum(),
        "dr_grpo": lambda: (each.sum(-1) / MAX_LENGTH).mean(),
    }[config.aggregation]()
    loss.backward()
    np.testing.assert_allclose(gradient, new.grad.numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("config", CONFIGS)
def test_first_update_has_ratio_exactly_one(config: GrpoConfig):
    rollout = {**_rollout(3), "old_log_probs": None}
    _, metrics, gradient = _loss_and_gradient(rollout, config)
    assert metrics["ratio"].compute() == 1.0
    assert metrics["clip_fraction"].compute() == 0.0
    # The same as one update with the old log-probabilities handed over.
    handed = {**rollout, "old_log_probs": rollout["log_probs"]}
    np.testing.assert_array_equal(_loss_and_gradient(handed, config)[2], gradient)
    if config.beta == 0:  # the plain policy gradient
        mask = np.asarray(rollout["mask"])
        lengths = mask.sum(-1, keepdims=True)
        scale = mask.sum() if config.aggregation == "token_mean" else lengths * lengths.size
        scale = MAX_LENGTH * lengths.size if config.aggregation == "dr_grpo" else scale
        expected = -np.asarray(rollout["advantages"])[..., None] * mask / scale
        np.testing.assert_allclose(gradient, expected, rtol=1e-5)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("config", CONFIGS)
def test_micro_batches_add_up_to_the_whole(config: GrpoConfig, gated: bool):
    rollout = _rollout(5, rows=5, gated=gated)
    rollout["mask"] = rollout["mask"].at[4].set(False)  # a row that only pads the batch
    loss, metrics, gradient = _loss_and_gradient(rollout, config)
    normalizer = _normalizer(rollout, config)
    parts = [
        _loss_and_gradient({k: v[rows] for k, v in rollout.items()}, config, normalizer)
        for rows in (slice(0, 1), slice(1, 2), slice(2, 5))
    ]
    np.testing.assert_allclose(sum(part[0] for part in parts), loss, atol=1e-6)
    joined = np.concatenate([part[2] for part in parts])
    np.testing.assert_allclose(joined, gradient, atol=1e-6)
    merged = jax.tree.map(lambda *leaves: sum(leaves), *(part[1] for part in parts))
    for name, value in metrics.items():
        np.testing.assert_allclose(_value(merged[name]), _value(value), rtol=1e-5)
    real = {k: v[:4] for k, v in rollout.items()}
    np.testing.assert_allclose(_loss_and_gradient(real, config)[0], loss, atol=1e-6)


def test_clipping_stops_the_gradient_only_where_it_must():
    # Ratios 1.5 and 0.5, each with a good and a bad completion.
    ratio = jnp.array([[[1.5], [0.5], [1.5], [0.5]]])
    rollout = {
        "log_probs": jnp.log(ratio),
        "old_log_probs": jnp.zeros((1, 4, 1)),
        "ref_log_probs": None,
        "advantages": jnp.array([[1.0, 1.0, -1.0, -1.0]]),
        "mask": jnp.ones((1, 4, 1), bool),
    }
    _, metrics, gradient = _loss_and_gradient(rollout, GrpoConfig())
    np.testing.assert_allclose(gradient[0, :, 0], [0, -0.5 / 4, 1.5 / 4, 0], rtol=1e-6)
    np.testing.assert_allclose(metrics["clip_fraction"].compute(), 0.5)


def test_kl_is_zero_at_the_reference_and_needs_it():
    rollout = _rollout(0)
    rollout["ref_log_probs"] = rollout["log_probs"]
    config = GrpoConfig(beta=0.1)
    assert _loss_and_gradient(rollout, config)[1]["kl"].compute() == 0.0
    rollout["ref_log_probs"] = None
    assert "kl" not in _loss_and_gradient(rollout, GrpoConfig())[1]
    with pytest.raises(ValueError, match="ref_log_probs"):
        _loss_and_gradient(rollout, config)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_batch_of_nothing_has_no_loss_and_no_nan(config: GrpoConfig):
    rollout = _rollout(0)
    rollout["mask"] = jnp.zeros_like(rollout["mask"])
    loss, metrics, gradient = _loss_and_gradient(rollout, config)
    assert loss == 0 and metrics["policy_loss"] == 0
    np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


def test_one_group_of_one_token_completions():
    rollout = _rollout(1, rows=1, group=2, length=1)
    clips = {"sequence_clip_low": 0.2, "sequence_clip_high": 0.2}
    losses = {
        (level, mode): _loss_and_gradient(
            rollout, GrpoConfig(ratio_level=level, aggregation=mode, **clips)
        )[0]
        for level in ("token", "sequence")
        for mode in ("sequence_mean", "token_mean")
    }
    # A completion of one token is its own sequence, and every mean is over two numbers.
    np.testing.assert_allclose(list(losses.values()), losses["token", "token_mean"], rtol=1e-6)


def test_dr_grpo_weighs_tokens_alike_and_the_mean_does_not():
    mask = jnp.array([[[True, True, True, True], [True, False, False, False]]])
    rollout = {
        "log_probs": jnp.full((1, 2, 4), -1.0),
        "old_log_probs": None,
        "ref_log_probs": None,
        "advantages": jnp.ones((1, 2)),
        "mask": mask,
    }
    gradient = _loss_and_gradient(rollout, GrpoConfig(aggregation="dr_grpo"))[2]
    np.testing.assert_allclose(gradient, -mask.astype(jnp.float32) / (2 * MAX_LENGTH), rtol=1e-6)
    by_mean = _loss_and_gradient(rollout, GrpoConfig())[2]
    np.testing.assert_allclose(by_mean[0, 1, 0], 4 * by_mean[0, 0, 0], rtol=1e-6)


def test_a_gated_token_keeps_its_kl_and_its_place_in_the_normaliser():
    rollout = {**_rollout(4), "old_log_probs": None}
    gate = jnp.zeros_like(rollout["mask"])
    config = GrpoConfig(beta=0.5, aggregation="token_mean")
    loss, metrics, gradient = _loss_and_gradient({**rollout, "gate": gate}, config)
    expected = _numpy({**rollout, "old_log_probs": rollout["log_probs"], "gate": gate}, config)
    assert metrics["policy_loss"] == 0 and metrics["gate_fraction"].compute() == 0
    np.testing.assert_allclose(loss, 0.5 * expected["kl"], rtol=1e-5)
    gap = np.asarray(rollout["ref_log_probs"] - rollout["log_probs"], np.float64)
    mask = np.asarray(rollout["mask"])
    expected = np.where(mask, 0.5 * (1 - np.exp(np.where(mask, gap, 0))), 0) / mask.sum()
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-8)


def test_an_open_gate_changes_nothing():
    rollout, config = _rollout(6), GrpoConfig(beta=0.1)
    opened = {**rollout, "gate": jnp.ones_like(rollout["mask"])}
    plain, through = (_loss_and_gradient(r, config) for r in (rollout, opened))
    np.testing.assert_array_equal(plain[0], through[0])
    np.testing.assert_array_equal(plain[2], through[2])


def test_entropy_is_a_metric_over_tokens():
    rollout, config = _rollout(0), GrpoConfig()
    entropies = jnp.where(rollout["mask"], 0.5, jnp.nan)
    normalizer = _normalizer(rollout, config)
    _, metrics = grpo_loss(**rollout, config=config, normalizer=normalizer, entropies=entropies)
    np.testing.assert_allclose(metrics["entropy"].compute(), 0.5, rtol=1e-6)


def test_no_gradient_reaches_anything_but_the_policy():
    rollout, config = _rollout(2), GrpoConfig(beta=0.1)
    others = {k: v for k, v in rollout.items() if k not in ("log_probs", "mask")}

    def loss(others):
        arguments = {**rollout, **others}
        scale = _normalizer(rollout, config)
        return grpo_loss(**arguments, config=config, normalizer=scale)[0]

    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(jax.grad(loss)(others)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"clip_low": 0.0},
        {"clip_low": 1.5},
        {"clip_high": 0.0},
        {"clip_high": float("inf")},
        {"beta": -0.1},
        {"beta": float("nan")},
        {"aggregation": "mean"},
        {"ratio_level": "word"},
        {"sequence_clip_low": 0.0},
        {"sequence_clip_high": -0.1},
    ],
)
def test_wrong_config_is_refused(wrong):
    with pytest.raises((ValueError, TypeCheckError), match=next(iter(wrong))):
        GrpoConfig(**wrong)
