"""The optimizer of a stage: schedule, clipping, then AdamW or Adafactor; most of it from optax."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jaxqa.train.small_moments import scale_by_bfloat16_adam
from jaxqa.typing import Array, Float


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Options of the optimizer. docs/training_memory.md: bytes per parameter of each choice.

    Attributes:
      rule: "adamw" keeps two moments of each parameter; "adafactor" keeps the mean squares of rows
        and columns in place of the second one, and bounds the root mean square of each step by 1.
      moments: dtype in which moments are kept between steps (of Adafactor, the first one; the
        means of rows and columns stay float32); they are computed in float32.
      learning_rate: peak learning rate.
      schedule: shape after the warm-up, down to `end_fraction` of the peak at the last step.
      warmup_fraction: fraction of the steps over which the rate rises linearly from 0.
      end_fraction: final rate over peak rate.
      beta1: decay of the first moment; 0 with Adafactor leaves that moment out.
      beta2, epsilon: of AdamW's second moment; Adafactor has its own schedule for it.
      weight_decay: decoupled decay of matrices, embeddings and the output table among them.
      clip_norm: global gradient norm above which gradients are scaled down; 0 switches it off.
    """

    rule: Literal["adamw", "adafactor"] = "adamw"
    moments: Literal["float32", "bfloat16"] = "float32"
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
        if self.rule == "adafactor":
            self._check_adafactor()

    def _check_adafactor(self):
        usual = (OptimizerConfig.beta2, OptimizerConfig.epsilon)
        if (self.beta2, self.epsilon) != usual:
            raise ValueError(f"beta2 and epsilon are AdamW's; with adafactor leave them at {usual}")
        if self.beta1 == 0 and self.moments != "float32":
            raise ValueError(
                "adafactor with beta1 0 keeps no moment that could be bfloat16; "
                "leave moments at float32"
            )


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
    """The optax chain: clip by global norm, scale by the rule, decay matrices, take the rate."""
    rule = optax.chain(
        _adafactor(config) if config.rule == "adafactor" else _adam(config),
        optax.add_decayed_weights(config.weight_decay, _decays),
        optax.scale_by_learning_rate(learning_rate_schedule(config, steps)),
    )
    return optax.chain(clip_by_global_norm(config.clip_norm), rule) if config.clip_norm else rule


def _adam(config: OptimizerConfig) -> optax.GradientTransformation:
    if config.moments == "bfloat16":
        return scale_by_bfloat16_adam(
            beta1=config.beta1, beta2=config.beta2, epsilon=config.epsilon
        )
    return optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.epsilon)


def _adafactor(config: OptimizerConfig) -> optax.GradientTransformation:
    """Shazeer and Stern's, with steps in the size of the learning rate, as Adam's are.

    Their steps grow with the parameter; a rate that was found for Adam would then not carry over.
    """
    chain = [optax.scale_by_factored_rms(), _clip_by_block_rms()]
    if config.beta1:
        dtype = jnp.dtype(config.moments)
        chain.append(optax.ema(config.beta1, debias=False, accumulator_dtype=dtype))
    return optax.chain(*chain)


def _clip_by_block_rms() -> optax.GradientTransformation:
    """`optax.clip_by_block_rms(1.0)`, repeatable to the last bit as `global_norm` is."""

    def clip(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params

        def bounded(leaf: jax.Array) -> jax.Array:
            return leaf / jnp.maximum(1.0, global_norm(leaf) / leaf.size**0.5).astype(leaf.dtype)

        return jax.tree.map(bounded, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), clip)


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


_MATRICES = re.compile(r"(.*/)?(kernel|embedding|lora_a|lora_b)|lm_head/weight")


def _decays(params: Any) -> Any:
    """Which leaves decay, as a tree of bool.

    Matrices, embeddings and the output table among them, as in Hugging Face's `Trainer`; not norms
    and biases, which shapes do not tell: [D], or stacked [L, D].
    """

    def decays(path: jax.tree_util.KeyPath, _: Any) -> bool:
        return bool(_MATRICES.fullmatch(jax.tree_util.keystr(path, simple=True, separator="/")))

    return jax.tree_util.tree_map_with_path(decays, params)
