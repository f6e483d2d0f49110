"""The entropy gate: policy gradient only on tokens where the policy was undecided.

Tokens whose entropy reaches the top-rho quantile of the whole rollout batch pass (OmniQuality-R,
equation 1). Gated tokens keep their KL penalty, which the equation leaves out although the paper
trains with one, and the loss is still divided by the number of all tokens, as the equation says.
"""

import dataclasses
import fractions
from typing import Literal, get_args

import jax.numpy as jnp

from jaxqa.typing import Array, Bool, Float

Source = Literal["none", "sampler", "policy"]

_LARGEST_DENOMINATOR = 10_000  # its square fits into int32


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Which tokens have a policy gradient.

    Attributes:
      source: whose entropies count: none (no gate), those that the sampler saw ("sampler"), or
        those of the policy that is being updated ("policy"), which needs the whole batch in one
        micro-batch.
      rho: share of the tokens that pass, in (0, 1], to four decimals. OmniQuality-R does not give
        its value; 0.2 is that of the work it follows (Wang et al. 2025, arXiv 2506.01939).
    """

    source: Source = "none"
    rho: float = 0.2

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise ValueError(f"source is {self.source!r}, expected one of {get_args(Source)}")
        if not 1 / _LARGEST_DENOMINATOR <= self.rho <= 1:
            raise ValueError(f"rho is {self.rho}, expected a number from 0.0001 to 1")


def high_entropy_tokens(
    entropies: Float[Array, "B G T"], mask: Bool[Array, "B G T"], *, rho: float
) -> Bool[Array, "B G T"]:
    """Return where an entropy reaches the (1 - rho) quantile of all unmasked ones.

    The quantile is `numpy.quantile`'s, linearly interpolated; no entropy lies between the two that
    it interpolates, so the upper of them is as good a threshold, and exact. Tokens of equal
    entropy pass together. Masked positions never pass, and may hold anything.
    """
    entropies = entropies.astype(jnp.float32)
    ascending = jnp.sort(jnp.where(mask, entropies, jnp.inf).ravel())
    return mask & (entropies >= ascending[_upper_rank(mask.sum(), rho)])


def _upper_rank(count: Array, rho: float) -> Array:
    """ceil((count - 1) (1 - rho)) in whole numbers; 0 for a count of 0.

    In float32 the product would be off by a rank or more for some hundred thousand tokens.
    """
    share = 1 - fractions.Fraction(rho).limit_denominator(_LARGEST_DENOMINATOR)
    quotient, remainder = jnp.divmod(jnp.maximum(count - 1, 0), share.denominator)
    rest = -(-remainder * share.numerator // share.denominator)
    return quotient * share.numerator + rest
