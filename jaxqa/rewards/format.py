"""Format reward: is the answer written as asked."""

from typing import Literal

import jax.numpy as jnp

from jaxqa.rewards.answers import LAYOUTS, Answers, Targets, compiled, understood
from jaxqa.typing import Array, Float

Layout = Literal["tags", "lines", "answer_only", "json", "any"]


@compiled
def answer_format(
    answers: Answers, targets: Targets, *, layout: Layout = "tags", answer_required: bool = True
) -> Float[Array, "N G"]:
    """Return 1 where the text has the wanted layout, else 0.

    With `answer_required` a text without the kind of answer that its task asks for earns 0 whatever
    its layout. The published Q-Insight, VisualQuality-R1 and Aes-R1 look at the layout only;
    TATAR, with layout "any", only at whether the answer can be read.
    """
    if layout == "any":
        if not answer_required:
            raise ValueError('layout is "any", expected answer_required with it: all texts earn 1')
        return jnp.asarray(understood(answers, targets.task), jnp.float32)
    good = answers.layouts[..., LAYOUTS.index(layout)]
    if answer_required:
        good &= understood(answers, targets.task)
    return jnp.asarray(good, jnp.float32)
