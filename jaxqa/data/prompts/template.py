"""What a prompt is: the turns that ask about an image, and the answer that is wanted."""

import dataclasses
import json
import math
import re
from typing import Literal

from jaxqa.data.records import Example
from jaxqa.data.tokenizer import Message
from jaxqa.errors import UserError
from jaxqa.rewards.labels import CHOICES, DISTORTION_CLASSES, SEVERITIES, TASKS

END_OF_TURN = "<|im_end|>"
"""Ends every target, so that the model learns to stop."""

IMAGE = "<image>"
"""Where an image stands in a question."""

TEXT_PROMPT = "{prompt}"
"""Where the text that an image was made from stands in a question."""

AnswerKind = Literal["number", "json", "degradation", "choice", "text"]

_TAGS = ("<think>", "</think>", "<answer>", "</answer>", END_OF_TURN)
_SCORED = ("number", "json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """One way of asking.

    Attributes:
        name: key in `TEMPLATES`.
        task: what is asked about, one of `records.TASKS`.
        system: system turn; None leaves the chat template's own.
        question: the user's turn. Images stand at `<image>`, or before everything else where it
            has none; `{prompt}` is the text that the image was made from.
        answer: what is wanted: a number; JSON with the key "rating"; JSON with the keys
            "distortion_class" and "severity"; one of `labels.CHOICES`; or text without tags, which
            is the example's rationale.
        low: lowest score that the question allows; None where no score is asked for.
        high: highest score that the question allows; None where no score is asked for.
        think: whether the rationale comes before the answer.
    """

    name: str
    task: str
    system: str | None = None
    question: str
    answer: AnswerKind
    low: float | None = None
    high: float | None = None
    think: bool = True

    def __post_init__(self):
        if self.task not in TASKS:
            raise ValueError(f"prompt {self.name!r}: task {self.task!r} is not one of {TASKS}")
        ends = [end is not None for end in (self.low, self.high)]
        if ends != [self.answer in _SCORED] * 2:
            raise ValueError(
                f"prompt {self.name!r} has answer {self.answer!r} and range {self.low} to "
                f"{self.high}; expected a range exactly where the answer is a score"
            )

    @property
    def layout(self) -> Literal["tags", "json", "answer_only"] | None:
        """Layout of a good answer, as rewards call it; None for text without tags."""
        if self.answer == "text":
            return None
        if not self.think:
            return "answer_only"
        return "json" if self.answer in ("json", "degradation") else "tags"

    def messages(self, example: Example) -> list[Message]:
        """Chat turns that ask about `example`.

        Raises:
            UserError: the question needs a text prompt that the example does not have.
        """
        first, *later = self.question.split(IMAGE)
        if not later:  # the image first, then the question
            first, later = "", [self.question]
        content: list[Message] = [{"type": "text", "text": first}] if first else []
        for text in later:
            content.append({"type": "image"})
            if text:
                content.append({"type": "text", "text": text})
        if TEXT_PROMPT in self.question:
            prompt = self._text_prompt(example)
            content = [_filled(part, prompt) for part in content]
        user = {"role": "user", "content": content}
        return [{"role": "system", "content": self.system}, user] if self.system else [user]

    def text(self, example: Example) -> str:
        """The question as the model reads it, without the images.

        Raises:
            UserError: see `messages`.
        """
        content = self.messages(example)[-1]["content"]
        return "".join(part["text"] for part in content if part["type"] == "text")

    def target(self, example: Example, score: float | None = None) -> str:
        """The assistant's turn for supervised fine-tuning, `<|im_end|>` included.

        `<think> rationale </think><answer> 3.42 </answer><|im_end|>`, scores with two decimals.

        Args:
            example: its rationale and answer labels are written, as far as the prompt wants them.
            score: in the prompt's range; prompts without a score ignore it.

        Raises:
            UserError: what the prompt wants is missing, unknown or outside [low, high], or the
                rationale is blank or holds one of the tags.
        """
        if self.answer == "text":
            return f"{self._rationale(example)}{END_OF_TURN}"
        answer = f"<answer> {self._answer(example, score)} </answer>{END_OF_TURN}"
        return f"<think> {self._rationale(example)} </think>{answer}" if self.think else answer

    def check_score(self, score: float) -> str | None:
        """Why a number is no score of this prompt; None if it is one."""
        low, high = self.low, self.high
        if low is None or high is None:
            return f"prompt {self.name!r} asks for no score"
        if math.isfinite(score) and low <= score <= high:
            return None
        return (
            f"score {score:g} is outside {low:g}..{high:g}, the range that prompt {self.name!r} "
            "asks for"
        )

    def _answer(self, example: Example, score: float | None) -> str:
        if self.answer in _SCORED:
            if score is None:
                raise UserError(f"example {example.example_id} has no score, which a target needs")
            if problem := self.check_score(score):
                raise UserError(f"{problem}; convert the labels or choose another prompt")
            return f"{score:.2f}" if self.answer == "number" else f'{{"rating": {score:.2f}}}'
        if self.answer == "choice":
            return _label(example, "choice", CHOICES)
        names = {
            "distortion_class": _label(example, "distortion_class", DISTORTION_CLASSES),
            "severity": _label(example, "severity", SEVERITIES),
        }
        return json.dumps(names)

    def _rationale(self, example: Example) -> str:
        rationale = (example.rationale or "").strip()
        if not rationale or any(tag in rationale for tag in _TAGS):
            raise UserError(
                f"rationale {rationale[:80]!r} cannot be a target; expected text without any of "
                f"{', '.join(_TAGS)}"
            )
        return rationale

    def _text_prompt(self, example: Example) -> str:
        if not example.prompt:
            raise UserError(
                f"prompt {self.name!r} asks about the text that an image was made from; example "
                f"{example.example_id} of {example.dataset} has none: choose another prompt"
            )
        # It comes from a file: no special token may come out of it.
        return re.sub(r"<(?=\|)", "< ", example.prompt.strip())


def _filled(part: Message, prompt: str) -> Message:
    if part["type"] != "text":
        return part
    return {"type": "text", "text": part["text"].replace(TEXT_PROMPT, prompt)}


def _label(example: Example, key: str, known: tuple[str, ...]) -> str:
    label = example.answer_labels.get(key)
    if label not in known:
        raise UserError(
            f"{key} of example {example.example_id} of {example.dataset} is {label!r}; expected "
            f"one of {', '.join(known)}"
        )
    return label
