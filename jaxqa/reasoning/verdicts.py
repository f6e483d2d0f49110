"""A judge's reply in strict JSON."""

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from jaxqa.reasoning.expert import EXPERT_FAILED, Reply

_FENCE = re.compile(r"\A```(?:json)?\s*(.*?)\s*```\Z", re.DOTALL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the judge said.

    Attributes:
      problem: reason to drop the text, or None to keep it.
      detail: more of it.
      marks: the judge's numbers.
    """

    problem: str | None
    detail: str = ""
    marks: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_verdict(
    reply: Reply, *, required: Sequence[str], others: Sequence[str] = (), least: float
) -> Verdict:
    """Read `{"decision": "keep" | "drop", MARK: 0 to 5, ..., "reason": TEXT}`.

    Kept only where the decision says so and every required mark reaches `least`. Anything but one
    JSON object with all its marks counts as no verdict, and without a verdict nothing is kept.
    """
    sample = reply[0]
    if sample.problem == EXPERT_FAILED:
        return Verdict(problem=EXPERT_FAILED, detail=f"judge: {sample.detail}")
    value = None if sample.problem else _json_object(sample.text)
    if value is None:
        return Verdict(problem="judge_unreadable", detail=(sample.detail or sample.text)[:200])
    marks = {name: value.get(name) for name in (*required, *others)}
    decision = str(value.get("decision", "")).strip().lower()
    if decision not in ("keep", "drop") or not all(map(_is_mark, marks.values())):
        return Verdict(problem="judge_unreadable", detail=sample.text[:200])
    reason = str(value.get("reason", ""))[:200]
    low = [name for name in required if float(marks[name]) < least]  # type: ignore[arg-type]
    if low:
        return Verdict(problem=f"judge_{low[0]}", detail=reason, marks=marks)
    if decision == "drop":
        return Verdict(problem="judge_drop", detail=reason, marks=marks)
    return Verdict(problem=None, detail=reason, marks=marks)


def _json_object(text: str) -> dict[str, Any] | None:
    text = text.strip()
    if match := _FENCE.match(text):
        text = match.group(1)
    try:
        value = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_mark(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 5
