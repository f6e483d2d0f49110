"""Named prompts: what the model is asked about an image, and what it should have answered."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

from jaxqa.data.records import Example
from jaxqa.data.tokenizer import Message
from jaxqa.errors import UserError

END_OF_TURN = "<|im_end|>"
"""Ends every target, so that the model learns to stop."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """One way of asking for a score.

    Attributes:
        name: key in `TEMPLATES`.
        system: system turn; None leaves the chat template's own.
        question: text of the user's turn, after the image.
        answer: what stands in `<answer>`: a number, or JSON with the key "rating".
        low: lowest score that the question allows.
        high: highest score that the question allows.
    """

    name: str
    system: str | None
    question: str
    answer: Literal["number", "json"]
    low: float
    high: float

    def messages(self, example: Example) -> list[Message]:
        """Chat turns that ask about `example`'s image: image first, then the question.

        The quality prompts ask the same of every image, so nothing of `example` is used.
        """
        del example
        user = {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": self.question}],
        }
        return [*self._system_turn(), user]

    def target(self, rationale: str, score: float) -> str:
        """The assistant's turn for supervised fine-tuning, `<|im_end|>` included.

        `<think> rationale </think><answer> 3.42 </answer><|im_end|>`, the score with two decimals.

        Raises:
            UserError: the score is not finite or outside [low, high], or the rationale is blank
                or holds one of the tags.
        """
        if not (math.isfinite(score) and self.low <= score <= self.high):
            raise UserError(
                f"score {score} is outside {self.low:g}..{self.high:g}, the range that prompt "
                f"{self.name!r} asks for; convert the labels or choose another prompt"
            )
        rationale = rationale.strip()
        tags = ("<think>", "</think>", "<answer>", "</answer>", END_OF_TURN)
        if not rationale or any(tag in rationale for tag in tags):
            raise UserError(
                f"rationale {rationale[:80]!r} cannot be a target; expected text without any of "
                f"{', '.join(tags)}"
            )
        answer = _ANSWERS[self.answer](score)
        return f"<think> {rationale} </think><answer> {answer} </answer>{END_OF_TURN}"

    def _system_turn(self) -> list[Message]:
        if self.system is None:
            return []
        return [{"role": "system", "content": self.system}]


_ANSWERS: dict[str, Callable[[float], str]] = {
    "number": lambda score: f"{score:.2f}",
    "json": lambda score: f'{{"rating": {score:.2f}}}',
}

# RACT paper, Table A.4, in the spelling of the released Q-Insight code.
_Q_INSIGHT = PromptTemplate(
    name="q_insight",
    system=(
        "A conversation between User and Assistant. The user asks a question, and the Assistant "
        "solves it. The assistant first thinks about the reasoning process in the mind and then "
        "provides the user with the answer. The reasoning process and answer are enclosed within "
        "<think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning "
        "process here </think><answer> answer here </answer>"
    ),
    question=(
        "What is your overall rating on the quality of this picture? The rating should be a float "
        "between 1 and 5, rounded to two decimal places, with 1 representing very poor quality "
        "and 5 representing excellent quality. Return the final answer in JSON format with the "
        'following keys: "rating": The score.'
    ),
    answer="json",
    low=1.0,
    high=5.0,
)

_CONCISE = PromptTemplate(
    name="concise",
    system="Judge the picture.",
    question=(
        "Rate its quality from 1 to 5, two decimals: <think> why </think><answer> score </answer>"
    ),
    answer="number",
    low=1.0,
    high=5.0,
)

TEMPLATES: dict[str, PromptTemplate] = {t.name: t for t in (_Q_INSIGHT, _CONCISE)}
"""`q_insight` is the published wording; `concise` is short, for models that train on a laptop."""


def get_template(name: str) -> PromptTemplate:
    """The prompt called `name`.

    Raises:
        UserError: there is none; the message lists those that there are.
    """
    if name not in TEMPLATES:
        raise UserError(f"unknown prompt {name!r}; expected one of {', '.join(TEMPLATES)}")
    return TEMPLATES[name]
