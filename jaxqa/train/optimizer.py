"""The optimizer of a stage: schedule, clipping and AdamW, all from optax."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jaxqa.typing import Array, Float


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Options of the optimizer.

    Attributes:
      learning_rate: peak learning rate.
      schedule: shape after the warm-up, down to `end_fraction` of the peak at the last step.
      warmup_fraction: fraction of the steps over which the rate rises linearly from 0.
      end_fraction: final rate over peak rate.
      beta1, beta2, epsilon: Adam's moments.
      weight_decay: decoupled decay, on matrices only.
      clip_norm: global gradient norm above which gradients are scaled down; 0 switches it off.
    """

    learning_rate: float = 1e-6
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_fraction: float = 0.0
    end_fraction: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0

    def __post_init__(self):
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.warmup_fraction < 1 or not 0 <= self.end_fraction <= 1:
            raise ValueError(
                "warmup_fraction must lie in [0, 1) and end_fraction in [0, 1], "
                f"got {self.warmup_fraction} and {self.end_fraction}"
            )
        if not 0 <= self.beta1 < 1 or not 0 <= self.beta2 < 1 or self.epsilon <= 0:
            raise ValueError("beta1 and beta2 must lie in [0, 1) and epsilon be positive")
        if self.weight_decay < 0 or self.clip_norm < 0:
            raise ValueError("weight_decay and clip_norm must not be negative")


def learning_rate_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate at each optimizer step, `steps` in all."""
    rise = round(config.warmup_fraction * steps)
    peak, end = config.learning_rate, config.learning_rate * config.end_fraction
    fall = max(steps - rise, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, end, fall),
        "cosine": optax.cosine_decay_schedule(peak, fall, alpha=config.end_fraction),
    }[config.schedule]
    if rise == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, rise), after], [rise])


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The optax chain: clip by global norm, then AdamW with the schedule."""
    rule = optax.adamw(
        learning_rate_schedule(config, steps),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        mask=_is_kernel,
    )
    return optax.chain(clip_by_global_norm(config.clip_norm), rule) if config.clip_norm else rule


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scale gradients down to `max_norm`: `optax.clip_by_global_norm` with our `global_norm`."""

    def clip(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        scale = max_norm / jnp.maximum(global_norm(updates), max_norm)
        return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), clip)


def global_norm(tree: Any) -> Float[Array, ""]:
    """Root of the sum of all squares, the same to the last bit in every run.

    XLA on CPU gives parts of a sum over a whole array to whichever threads are idle (YNNPACK), so
    `optax.tree.norm` of equal gradients differs in its last bit once in some thousand calls, and a
    resumed run would drift from an undisturbed one. Sums of rows, then a running sum, do not.
    """
    leaves = jax.tree.leaves(tree)
    rows = [jnp.square(leaf.astype(jnp.float32)).sum(axis=-1).ravel() for leaf in leaves]
    return jnp.sqrt(jnp.stack([jnp.cumsum(row)[-1] for row in rows]).cumsum()[-1])


def _is_kernel(params: Any) -> Any:
    """Which leaves decay: matrices, not norms and biases, which are [D] or stacked [L, D]."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: str(path[-1].key) == "kernel" or str(path[-1].key) == "embedding", params
    )
