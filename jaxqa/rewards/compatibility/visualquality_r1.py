"""VisualQuality-R1's parser and the reach of its ranking reward."""

import dataclasses
import re
from collections.abc import Sequence

import jax
import numpy as np

from jaxqa.rewards.answers import LAYOUTS, Answers, Targets
from jaxqa.rewards.compatibility.local_batches import local_batches
from jaxqa.rewards.compatibility.reading import read_scores
from jaxqa.rewards.ranking import thurstone_fidelity

_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_CLOSE = "</answer>"
_BETWEEN = re.compile(r"</think>\s*<answer>")


def parse_answers(texts: Sequence[Sequence[str]], *, seed: int) -> Answers:
    """Read scores and layout "tags" as the published code does.

    Quirks: the first number in the last `<answer>`, or in the whole text where there is no
    answer; without any number a random integer from 1 to 5, whatever the scale, which then counts
    in mean and variance; the layout allows more tags inside, and no white space around.
    """
    answers = read_scores(texts, _number)
    guesses = np.random.default_rng(seed).integers(1, 6, answers.valid.shape)
    layouts = np.array(answers.layouts)
    layouts[..., LAYOUTS.index("tags")] = [[_has_layout(text) for text in g] for g in texts]
    return dataclasses.replace(
        answers,
        score=np.where(answers.valid, answers.score, guesses).astype(np.float32),
        valid=np.ones_like(answers.valid),
        layouts=layouts,
    )


def rank_reward(answers: Answers, targets: Targets, *, images_per_device: int) -> jax.Array:
    """`thurstone_fidelity` among the images of one device."""
    return thurstone_fidelity(answers, local_batches(targets, images_per_device))


def _number(text: str) -> float | None:
    closed = text[: text.rfind(_CLOSE) + len(_CLOSE)] if _CLOSE in text else ""
    found = _ANSWER.findall(closed)  # every opened answer ends: linear time
    number = _NUMBER.search(found[-1] if found else text)
    return float(number[0]) if number else None


def _has_layout(text: str) -> bool:
    # The pattern <think>.*?</think>\s*<answer>.*?</answer> on the whole text, in linear time.
    head = "<think>"
    if not (text.startswith(head) and text.endswith(_CLOSE)):
        return False
    return _BETWEEN.search(text, len(head), len(text) - len(_CLOSE)) is not None
