"""What a long answer costs."""

import jax.numpy as jnp

from jaxqa.rewards.answers import Answers, Targets, compiled
from jaxqa.typing import Array, Float


@compiled
def thinking_cost(
    answers: Answers, targets: Targets, *, words_free: int, words_max: int
) -> Float[Array, "N G"]:
    """Return 0 up to `words_free` words, -1 from `words_max`, and a line in between.

    Words of the whole text, tags included; an answer that cannot be read pays like any other, so
    that it is never the cheaper one. TATAR names such a cost and publishes only the word limits
    of `adaptive_gaussian`; a quality task that should be thought about briefly is where it belongs.
    """
    del targets  # words cost the same whatever is true
    if not 0 <= words_free < words_max:
        raise ValueError(
            f"words_free is {words_free} and words_max {words_max}, expected at least 0 words free "
            "and more at most"
        )
    beyond = (answers.word_count - words_free).astype(jnp.float32)
    return -jnp.clip(beyond / (words_max - words_free), 0.0, 1.0)
