"""Low-rank adapters beside linear maps (LoRA, Hu et al., 2021): x W + alpha / rank (x A) B."""

import math
import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from jaxqa.nn.linear import Linear


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which linear maps get an adapter, and how large.

    Attributes:
      rank: inner width of an adapter; 0 for none: every parameter is trained.
      alpha: what an adapter adds is multiplied by alpha / rank.
      targets: patterns; a linear map gets an adapter where one matches its whole "/"-joined path,
        as "model/layers/self_attn/q_proj". The vision tower's are below "visual/".
    """

    rank: int = 0
    alpha: float = 32.0
    targets: tuple[str, ...] = ("model/layers/.*",)

    def __post_init__(self):
        if self.rank < 0 or self.alpha <= 0:
            raise ValueError(
                f"rank must be at least 0 and alpha positive, got {self.rank} and {self.alpha}"
            )
        for pattern in self.targets:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"targets: {pattern!r} is no pattern: {error}") from error

    @property
    def scale(self) -> float:
        """What an adapter adds is multiplied by this."""
        return self.alpha / self.rank


def add_adapters(root: nnx.Module, config: LoraConfig, rngs: nnx.Rngs) -> None:
    """Give the targeted linear maps of a model adapters that add 0, as A is drawn and B is 0.

    The kernels may be stacked, [L in out]: then so are `lora_a` [L in r] and `lora_b` [L r out].

    Raises:
      ValueError: a pattern of `config.targets` matches no linear map.
    """
    linears = {
        "/".join(map(str, path)): module
        for path, module in nnx.iter_modules(root)
        if isinstance(module, Linear)
    }
    for pattern in config.targets:
        if not any(re.fullmatch(pattern, path) for path in linears):
            raise ValueError(
                f"targets: {pattern!r} matches no linear map; there are {', '.join(linears)}"
            )
    for path, linear in linears.items():
        if any(re.fullmatch(pattern, path) for pattern in config.targets):
            _add_adapter(linear, config, rngs)


def _add_adapter(linear: Linear, config: LoraConfig, rngs: nnx.Rngs) -> None:
    *lead, width_in, width_out = linear.kernel[...].shape
    # Kaiming's uniform with slope 5 ** 0.5, as PEFT draws A.
    bound = 1 / math.sqrt(width_in)
    shape, dtype = (*lead, width_in, config.rank), linear.kernel[...].dtype
    drawn = jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound)
    linear.lora_a = nnx.Param(drawn.astype(dtype))
    linear.lora_b = nnx.Param(jnp.zeros((*lead, config.rank, width_out), dtype))
    linear.lora_scale = config.scale
