"""Which of the wanted layouts a whole text has.

Texts are split at their tags, not matched by one pattern: that takes time linear in the text,
whatever runs of white space a model produces.
"""

import re

_TAG = re.compile(r"</?(?:think|answer)>")
_RATIONALE_AND_ANSWER = ["<think>", "</think>", "<answer>", "</answer>"]
_ANSWER_ONLY = ["<answer>", "</answer>"]


def layouts_of(text: str, *, is_object: bool) -> tuple[bool, bool, bool, bool]:
    """Return, for each of `answers.LAYOUTS`, whether `text` has it.

    - "tags": one `<think> ... </think>`, then one `<answer> ... </answer>`, with white space at
      most around them;
    - "lines": Q-Insight's stricter one, every tag on its own line and one flat pair of braces in
      the answer;
    - "answer_only": one `<answer> ... </answer>` with white space at most around it, and no other
      tag;
    - "json": as "tags", and the answer is a JSON object (`is_object`).
    """
    tags = _TAG.findall(text)
    if tags == _ANSWER_ONLY:
        before, _, after = _TAG.split(text)
        return False, False, not (before.strip() or after.strip()), False
    if tags != _RATIONALE_AND_ANSWER:
        return False, False, False, False
    before, rationale, between, answer, after = _TAG.split(text)
    in_tags = not (before.strip() or between.strip() or after.strip())
    outside = not before and not after and in_tags and between.endswith("\n")
    on_lines = outside and _on_own_lines(rationale) and _braces_on_own_lines(answer)
    return in_tags, on_lines, False, in_tags and is_object


def _on_own_lines(content: str) -> bool:
    """Whether line breaks part `content` from the tags before and after it."""
    head, tail = _outer_space(content)
    return "\n" in head and "\n" in tail and content.count("\n") > 1


def _braces_on_own_lines(content: str) -> bool:
    head, tail = _outer_space(content)
    body = content.strip()
    in_braces = body.startswith("{") and body.endswith("}")
    flat = body.count("{") == 1 and body.count("}") == 1
    return in_braces and flat and head.endswith("\n") and "\n" in tail


def _outer_space(content: str) -> tuple[str, str]:
    head = content[: len(content) - len(content.lstrip())]
    return head, content[len(content.rstrip()) :]
