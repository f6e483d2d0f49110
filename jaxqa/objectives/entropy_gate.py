"""The entropy gate: policy gradient only on tokens where the policy was undecided.

Tokens whose entropy reaches the top-rho quantile of the whole rollout batch pass (OmniQuality-R,
equation 1), also where a filter trains on a part of that batch only. Gated tokens keep their KL
penalty, which the equation leaves out although the paper trains with one, and the loss is still
divided by the number of all tokens, as the equation says.
"""

import dataclasses
import fractions
from collections.abc import Sequence
from typing import Literal, get_args

import jax.numpy as jnp

from jaxqa.typing import Array, Bool, Float

Source = Literal["none", "sampler", "policy"]
Among = Literal["rollout", "kept"]

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
      among: whose quantile it is: that of all tokens that were sampled for the step ("rollout":
        equation 1 has "all token entropies within the batch"), or of the groups that the filter
        keeps ("kept": the paper retains only those "for further training"). Where the source is the
        policy, it is always of the kept ones: the policy reads no others.
    """

    source: Source = "none"
    rho: float = 0.2
    among: Among = "rollout"

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise ValueError(f"source is {self.source!r}, expected one of {get_args(Source)}")
        if self.among not in get_args(Among):
            raise ValueError(f"among is {self.among!r}, expected one of {get_args(Among)}")
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
    return mask & (entropies >= entropy_threshold(((entropies, mask),), rho=rho))


def entropy_threshold(
    sampled: Sequence[tuple[Float[Array, "..."], Bool[Array, "..."]]], *, rho: float
) -> Float[Array, ""]:
    """The quantile that `high_entropy_tokens` uses, of the unmasked entropies in several arrays."""
    values = [jnp.where(mask, entropies, jnp.inf).ravel() for entropies, mask in sampled]
    ascending = jnp.sort(jnp.concatenate(values).astype(jnp.float32))
    count = sum(mask.sum() for _, mask in sampled)
    return ascending[_upper_rank(jnp.asarray(count), rho)]


def _upper_rank(count: Array, rho: float) -> Array:
    """ceil((count - 1) (1 - rho)) in whole numbers; 0 for a count of 0.

    In float32 the product would be off by a rank or more for some hundred thousand tokens.
    """
    share = 1 - fractions.Fraction(rho).limit_denominator(_LARGEST_DENOMINATOR)
    quotient, remainder = jnp.divmod(jnp.maximum(count - 1, 0), share.denominator)
    rest = -(-remainder * share.numerator // share.denominator)
    return quotient * share.numerator + rest
