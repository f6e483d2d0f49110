"""Aes-R1's parser (VisualQuality-R1's) and its rounded rewards; the third term is `format`."""

import jax
import jax.numpy as jnp

from jaxqa.rewards.answers import Answers, Targets
from jaxqa.rewards.compatibility import visualquality_r1
from jaxqa.rewards.compatibility.local_batches import local_batches
from jaxqa.rewards.gaussian import absolute_error
from jaxqa.rewards.ranking import frank

# Its random integers from 1 to 5 meet labels from 0 to 1: the error reward gives them nothing, but
# the rank reward takes them for the best image.
parse_answers = visualquality_r1.parse_answers


def rank_reward(answers: Answers, targets: Targets, *, images_per_device: int) -> jax.Array:
    """`frank` among the images of one device.

    Quirks: an epsilon under the roots, which equation 4 does not have; four decimals.
    """
    local = local_batches(targets, images_per_device)
    return jnp.round(frank(answers, local, fidelity_epsilon=1e-6), 4)


def error_reward(answers: Answers, targets: Targets) -> jax.Array:
    """`absolute_error` in four decimals, a quirk in which its epsilon gets lost."""
    return jnp.round(absolute_error(answers, targets, sigma=0.1, epsilon=1e-5), 4)
