"""The published ranking rewards, as options of the pairwise core."""

from jaxqa.rewards.answers import Answers, Targets, compiled
from jaxqa.rewards.pairwise import Link, PairwiseRule, Ties, Variance, pairwise
from jaxqa.typing import Array, Float


@compiled
def thurstone_fidelity(
    answers: Answers,
    targets: Targets,
    *,
    link: Link = "probit",
    variance: Variance = "bessel",
    ties: Ties = "half",
    variance_epsilon: float = 1e-6,
    fidelity_epsilon: float = 1e-6,
) -> Float[Array, "N G"]:
    """VisualQuality-R1: Thurstone's probabilities, their fidelity to which label is higher."""
    rule = PairwiseRule(
        link=link,
        variance=variance,
        ties=ties,
        variance_epsilon=variance_epsilon,
        gain="fidelity",
        gain_epsilon=fidelity_epsilon,
    )
    return pairwise(answers, targets, rule)


@compiled
def frank(
    answers: Answers,
    targets: Targets,
    *,
    variance: Variance = "bessel",
    ties: Ties = "win",
    variance_epsilon: float = 1e-6,
    fidelity_epsilon: float = 0.0,
) -> Float[Array, "N G"]:
    """Aes-R1 (equations 3 to 5): `thurstone_fidelity` in which both of a tie should win.

    The paper gives neither gamma (`variance_epsilon`) nor the variance estimator: both are the
    published code's. Equation 4 has no epsilon under its roots; the code has 1e-6 there.
    """
    return thurstone_fidelity(
        answers,
        targets,
        variance=variance,
        ties=ties,
        variance_epsilon=variance_epsilon,
        fidelity_epsilon=fidelity_epsilon,
    )


@compiled
def completion_ranking(
    answers: Answers,
    targets: Targets,
    *,
    label_range: float = 100.0,
    label_temperature: float = 0.08,
    distance_scale: float = 0.12,
    link: Link = "logistic",
    variance: Variance = "population",
    variance_epsilon: float = 1e-6,
    entropy_epsilon: float = 1e-6,
) -> Float[Array, "N G"]:
    """TATAR: soft wins, near labels weigh more, 1 minus the cross-entropy's share of its maximum.

    Args:
      label_range: highest minus lowest score on the scale of the prompt; the other options are
        shares of it (of its square: `variance_epsilon`).
    """
    rule = PairwiseRule(
        label_range=label_range,
        link=link,
        variance=variance,
        variance_epsilon=variance_epsilon,
        label_temperature=label_temperature,
        distance_scale=distance_scale,
        gain="cross_entropy",
        gain_epsilon=entropy_epsilon,
    )
    return pairwise(answers, targets, rule)
