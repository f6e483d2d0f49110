"""From the samples of a reply to the outcome of an image."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from typing import Any

from jaxqa.reasoning.expert import EXPERT_FAILED, Reply, Sample
from jaxqa.reasoning.pipeline import Ask, Outcome, Steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """What became of one text.

    Attributes:
      text: the rationale; empty where it is dropped.
      problem: why it is dropped, or None.
      detail: more of that.
      notes: what else to keep about it.
    """

    text: str = ""
    problem: str | None = None
    detail: str = ""
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


Examine = Callable[[int, Sample], Generator[Ask, Reply, Finding]]
"""Looks at sample number n; may ask the judge."""


def gather(reply: Reply, examine: Examine) -> Steps:
    """Examine every sample that is a whole answer; equal answers count once."""
    findings: list[Finding] = []
    seen: set[str] = set()
    for number, sample in enumerate(reply):
        if sample.problem is not None:
            findings.append(Finding(problem=sample.problem, detail=sample.detail))
        elif sample.text in seen:
            findings.append(Finding(problem="repeated", detail=sample.text[:200]))
        else:
            seen.add(sample.text)
            findings.append((yield from examine(number, sample)))
    return outcome_of(findings)


def outcome_of(findings: list[Finding], **notes: Any) -> Outcome:
    """Kept if a text is; else dropped for what the first text was dropped for.

    Where no text is left and nobody answered for one of them, that is the reason: such images are
    asked about again when the stage goes on.
    """
    kept = [finding for finding in findings if finding.problem is None]
    dropped = Counter(f.problem for f in findings if f.problem is not None)
    if kept:
        return Outcome(
            rationales=tuple(finding.text for finding in kept),
            dropped=dropped,
            notes={**notes, "texts": [dict(finding.notes) for finding in kept]},
        )
    failed = [finding for finding in findings if finding.problem == EXPERT_FAILED]
    first = (failed or findings)[0]
    return Outcome(dropped=dropped, reason=first.problem, detail=first.detail, notes=notes)
