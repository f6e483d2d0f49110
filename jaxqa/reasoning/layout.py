"""The tags of an expert's answer."""

import re

_THOUGHT = re.compile(r"<think>((?:(?!</?think>).)*)</think>", re.DOTALL)
_ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_TAGS = re.compile(r"</?(?:think|answer)>|<\|[a-z_]+\|>")


def thought(text: str) -> str | None:
    """What stands in the only `<think>` block; None if there is not exactly one, or it is empty."""
    return _only(_THOUGHT, text)


def answer(text: str) -> str | None:
    """What stands in the only `<answer>` block; None if there is not one alone, or it is empty."""
    return _only(_ANSWER, text)


def has_both(text: str) -> bool:
    """Whether the text is one `<think>` block and then one `<answer>` block and nothing else."""
    tags = re.findall(r"</?(?:think|answer)>", text)
    outside = re.split(r"<think>.*</think>|<answer>.*</answer>", text, flags=re.DOTALL)
    return tags == ["<think>", "</think>", "<answer>", "</answer>"] and not "".join(outside).strip()


def plain(text: str) -> str | None:
    """A text that has no tags at all, or the content of its only `<think>` block; else None."""
    text = text.strip()
    if _TAGS.search(text):
        return thought(text)
    return text or None


def _only(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.findall(text)
    if len(found) != 1 or not found[0].strip() or _TAGS.search(found[0]):
        return None
    return found[0].strip()
