"""TATAR's parser and the rewards of its run script; the format term is layout "any"."""

import dataclasses
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxqa.rewards.adaptive_gaussian import adaptive_gaussian
from jaxqa.rewards.answers import Answers, Targets
from jaxqa.rewards.compatibility.local_batches import local_batches
from jaxqa.rewards.compatibility.reading import first_answer, read_scores
from jaxqa.rewards.labels import TASKS
from jaxqa.rewards.pairwise import PairwiseRule, pairwise
from jaxqa.rewards.parsing import without_code_fence

_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_SAMPLES = PairwiseRule(
    label_range=100.0,
    link="logistic",
    variance="none",
    variance_epsilon=0.08**2,
    label_temperature=0.08,
    distance_scale=0.12,
    gain="cross_entropy",
    gain_epsilon=1e-4,
    min_scores=1,
)
_GROUPS = dataclasses.replace(
    _SAMPLES, variance="population", variance_epsilon=1e-6, gain_epsilon=1e-6
)


def parse_answers(texts: Sequence[Sequence[str]]) -> Answers:
    """Read scores from 0 to 100 as the published training code does.

    Quirks: the first `<answer>` counts; ".5" and "5." are no numbers; what lies outside the range
    is moved to its border.
    """
    answers = read_scores(texts, _number)
    return dataclasses.replace(answers, score=np.clip(answers.score, 0.0, 100.0))


def score_reward(answers: Answers, targets: Targets) -> jax.Array:
    """`adaptive_gaussian` with the constants of each task.

    Quirks: aesthetics get this term too, besides the ranking that the abstract names; the word
    limits take away this term alone and count the tags.
    """
    fast = adaptive_gaussian(answers, targets, growth=0.8, max_words=65)
    slow = adaptive_gaussian(answers, targets, growth=2.0, scale=1.5, min_words=125)
    return jnp.where(_aesthetics(targets), slow, fast)


def rank_reward(answers: Answers, targets: Targets, *, images_per_device: int) -> jax.Array:
    """The ranking that the run script uses: every completion against every other on its device.

    Quirks: no statistics of a group; completions of the same image are pairs too. With one image
    per device, as published, only those are left, and the reward is for agreeing.
    """
    group_size = jnp.shape(answers.score)[1]
    local = local_batches(targets, images_per_device)
    rows = jax.tree.map(lambda leaf: jnp.repeat(leaf, group_size, axis=0), local)
    samples = jax.tree.map(lambda leaf: jnp.reshape(leaf, (-1, 1, *leaf.shape[2:])), answers)
    reward = pairwise(samples, rows, _SAMPLES)
    return jnp.where(_aesthetics(targets), reward.reshape(-1, group_size), 0.0)


def thurstone_reward(answers: Answers, targets: Targets, *, images_per_device: int) -> jax.Array:
    """The published ranking that no run uses: `completion_ranking` among a device's images.

    Quirk: one score is enough for mean and variance. With one image per device it is 0.
    """
    local = local_batches(targets, images_per_device)
    reward = pairwise(answers, local, _GROUPS)
    return jnp.where(_aesthetics(targets), reward, 0.0)


def _number(text: str) -> float | None:
    answer = without_code_fence((first_answer(text) or "").strip())
    return float(answer) if _NUMBER.fullmatch(answer) else None


def _aesthetics(targets: Targets) -> jax.Array:
    return (jnp.asarray(targets.task) == TASKS.index("aesthetics"))[:, None]
