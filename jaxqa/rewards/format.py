"""Format reward: is the answer written as asked."""

import jax.numpy as jnp

from jaxqa.rewards.answers import Answers, Targets
from jaxqa.typing import Array, Float


def answer_format(
    answers: Answers, targets: Targets, *, score_required: bool = True
) -> Float[Array, "N G"]:
    """Return 1 where the text has the wanted layout, else 0.

    With `score_required` a text whose score cannot be read earns 0 whatever its layout. The
    published Q-Insight, VisualQuality-R1 and Aes-R1 look at the layout only.
    """
    del targets  # the format does not depend on them
    good = answers.format_ok & answers.valid if score_required else answers.format_ok
    return jnp.asarray(good, jnp.float32)
