"""From text to score: what stands in `<answer>`, and whether the whole has the wanted layout."""

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from jaxqa.rewards.answers import Answers

Layout = Literal["tags", "lines"]
ScoreRange = tuple[float, float]

# The last complete block: no other `<answer>` between its two tags.
_ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_TAG = re.compile(r"</?(?:think|answer)>")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParsedAnswer:
    """One completion, read.

    Attributes:
      score: the number in the last `<answer>`, or None.
      error: why there is no score, or None.
      format_ok: whether the whole text has the wanted layout.
      word_count: words of the whole text, split at white space, tags included.
    """

    score: float | None
    error: str | None
    format_ok: bool
    word_count: int


def parse_answer(
    text: str, *, layout: Layout = "tags", score_range: ScoreRange | None = None
) -> ParsedAnswer:
    """Read the score in the last `<answer> ... </answer>` of `text`.

    The answer is one decimal number and nothing else, or a JSON object whose `rating` is a number,
    in a Markdown code fence or not. Anything else, or a number outside
    `score_range` (inclusive), gives no score: never a guess, never a clipped value. Layout "tags"
    is one `<think> ... </think>` and one `<answer> ... </answer>` with white space at most around
    them; "lines" is Q-Insight's stricter one, every tag on its own line and JSON in the answer.
    """
    if layout not in get_args(Layout):
        raise ValueError(f"layout is {layout!r}, expected one of {get_args(Layout)}")
    score, error = _read_score(text)
    if score is not None and score_range is not None:
        low, high = score_range
        if not low <= score <= high:
            score, error = None, f"answer {score:g} lies outside [{low:g}, {high:g}]"
    return ParsedAnswer(
        score=score,
        error=error,
        format_ok=_has_layout(text, layout),
        word_count=len(text.split()),
    )


def parse_answers(
    texts: Sequence[Sequence[str]],
    *,
    layout: Layout = "tags",
    score_range: ScoreRange | None = None,
) -> Answers:
    """Parse G texts for each of N prompts into NumPy arrays [N G]; see `parse_answer`."""
    group_sizes = {len(group) for group in texts}
    if len(group_sizes) != 1:
        raise ValueError(
            f"groups have {sorted(group_sizes)} texts, expected the same number (at least one "
            "group) for every prompt"
        )
    parsed = [
        [parse_answer(text, layout=layout, score_range=score_range) for text in group]
        for group in texts
    ]
    return Answers(
        score=np.array([[answer.score or 0.0 for answer in row] for row in parsed], np.float32),
        valid=np.array([[answer.score is not None for answer in row] for row in parsed], np.bool_),
        format_ok=np.array([[answer.format_ok for answer in row] for row in parsed], np.bool_),
        word_count=np.array([[answer.word_count for answer in row] for row in parsed], np.int32),
    )


def _read_score(text: str) -> tuple[float | None, str | None]:
    """The score and no error, or no score and the reason."""
    blocks = _ANSWER.findall(text)
    if not blocks:
        return None, "no <answer>...</answer>"
    answer = _without_code_fence(blocks[-1].strip())
    score = float(answer) if _NUMBER.fullmatch(answer) else _rating(answer)
    if score is None:
        return None, f"answer {_shortened(answer)} is neither a number nor JSON with a rating"
    # Rewards are computed in float32, where a huge number would become infinite.
    if not abs(score) <= float(np.finfo(np.float32).max):
        return None, f"answer {_shortened(answer)} is too large a number"
    return score, None


def _rating(answer: str) -> float | None:
    """The number under "rating" of a JSON object, else None."""
    try:
        parsed = json.loads(answer, parse_int=float, parse_constant=lambda _: None)
    except (json.JSONDecodeError, RecursionError):  # RecursionError: "[[[[..." thousands deep
        return None
    rating = parsed.get("rating") if isinstance(parsed, dict) else None
    return rating if isinstance(rating, float) else None


def _without_code_fence(answer: str) -> str:
    if len(answer) < 6 or not (answer.startswith("```") and answer.endswith("```")):
        return answer
    return answer[3:-3].removeprefix("json").strip()


def _has_layout(text: str, layout: Layout) -> bool:
    # Split at the tags, not matched by one pattern: that takes time linear in the text, whatever
    # runs of white space a model produces.
    if _TAG.findall(text) != ["<think>", "</think>", "<answer>", "</answer>"]:
        return False
    before, rationale, between, answer, after = _TAG.split(text)
    if layout == "tags":
        return not (before.strip() or between.strip() or after.strip())
    outside = not before and not after and not between.strip() and between.endswith("\n")
    return outside and _on_own_lines(rationale) and _is_json_on_own_lines(answer)


def _on_own_lines(content: str) -> bool:
    """Whether line breaks part `content` from the tags before and after it."""
    head, tail = _outer_space(content)
    return "\n" in head and "\n" in tail and content.count("\n") > 1


def _is_json_on_own_lines(content: str) -> bool:
    head, tail = _outer_space(content)
    body = content.strip()
    braces = re.sub(r"[^{}]", "", body)
    is_object = braces == "{}" and body.startswith("{") and body.endswith("}")
    return is_object and head.endswith("\n") and "\n" in tail


def _outer_space(content: str) -> tuple[str, str]:
    head = content[: len(content) - len(content.lstrip())]
    return head, content[len(content.rstrip()) :]


def _shortened(answer: str, limit: int = 40) -> str:
    return repr(answer if len(answer) <= limit else answer[:limit] + "...")
