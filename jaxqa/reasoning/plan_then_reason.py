"""OmniQuality-R: a plan from the question, reasoning along it, and only what is worth learning."""

import dataclasses
import math
import re
from collections.abc import Generator, Mapping
from typing import Literal

from jaxqa.reasoning import layout, wording
from jaxqa.reasoning.expert import EXPERT_FAILED, Reply, Sample
from jaxqa.reasoning.findings import Finding, gather
from jaxqa.reasoning.labels import FIVE_LEVELS, lacks_score, unit_score
from jaxqa.reasoning.pipeline import Ask, Item, Outcome, Steps
from jaxqa.reasoning.requests import ask, check_gaps
from jaxqa.rewards.labels import TASKS
from jaxqa.sampling.config import SamplingConfig

_PLAN_TALK = re.compile(
    r"\b(?:the|this|my|given|above|provided) (?:analysis )?(?:plan|steps?|instructions?)\b"
    r"|\bstep \d|\baccording to the plan\b",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanThenReason:
    """Plan (without the picture), reason along the plan, answer with one of five levels; K times.

    The expert does not know the score. A sample is right if its level is at most `tolerance`
    levels from the label (five levels, evenly spaced over the prompt's range). With p the share of
    right samples among all that were asked for, an image is too easy if p >= `easy_share` and too
    hard if p <= `hard_share`; either is dropped whole. Of the rest, right samples are kept, and
    the harder the image the more of them: `texts` * (1 - p), rounded up, at least one. The plan is
    nowhere in what is kept: fine-tuning pairs the original question with the reasoning.

    Attributes:
      plan_prompt: what a plan is asked with; {question} is the training question.
      reason_prompt: what the reasoning is asked with; {question} {plan} {levels}.
      plan_sampling: of the plans; of `num_samples` plans to one question, images take turns.
      tolerance: how far a right level may be from the label, in levels; 0.5: the nearest alone.
        More, and pictures between two levels have two right ones: most would be too easy.
      easy_share, hard_share: where an image begins to be too easy, or stops being too hard.
      texts: reasonings kept of the hardest image.
      min_words: a shorter reasoning is not kept.
      counts: task -> reasoned pictures wanted; empty takes all.
    """

    name: Literal["plan_then_reason"] = "plan_then_reason"
    plan_prompt: str = wording.PLAN
    reason_prompt: str = wording.REASON
    plan_sampling: SamplingConfig = SamplingConfig(temperature=0.7, max_new_tokens=256)
    tolerance: float = 0.5
    easy_share: float = 1.0
    hard_share: float = 0.0
    texts: int = 4
    min_words: int = 30
    counts: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        check_gaps("plan_prompt", self.plan_prompt, {"question"})
        check_gaps("reason_prompt", self.reason_prompt, {"question", "plan", "levels"})
        if not 0 <= self.hard_share < self.easy_share <= 1:
            raise ValueError(
                f"hard_share is {self.hard_share} and easy_share {self.easy_share}; expected "
                "0 <= hard_share < easy_share <= 1"
            )
        if self.tolerance <= 0 or self.texts < 1 or self.min_words < 0:
            raise ValueError("tolerance above 0, texts at least 1, min_words at least 0")
        if unknown := self.counts.keys() - set(TASKS):
            raise ValueError(f"counts names {sorted(unknown)}; expected some of {TASKS}")

    def write(self, item: Item, sampling: SamplingConfig) -> Steps:
        """See `Pipeline`."""
        unit = unit_score(item)
        question = question_text(item)
        reply = yield ask(item, self.plan_prompt, self.plan_sampling, facts={"question": question})
        plan = reply[item.example.example_id % len(reply)]
        if plan.problem is not None:
            reason = EXPERT_FAILED if plan.problem == EXPERT_FAILED else "no_plan"
            return Outcome(reason=reason, detail=f"{plan.problem}: {plan.detail}")
        facts = {
            "question": question,
            "plan": layout.plain(plan.text) or plan.text,
            "levels": ", ".join(FIVE_LEVELS),
        }
        reply = yield ask(item, self.reason_prompt, sampling, facts=facts, turn=1)

        def examine(number: int, sample: Sample) -> Generator[Ask, Reply, Finding]:
            yield from ()
            return self._examine(sample, unit)

        outcome = yield from gather(reply, examine)
        if outcome.reason == EXPERT_FAILED:
            return outcome
        right = sum(self._is_right(sample, unit) for sample in reply)
        return self._reject(outcome, share=right / len(reply), plan=facts["plan"])

    def lacks(self, item: Item) -> str | None:
        """See `Pipeline`: a score."""
        return lacks_score(item)

    def group(self, item: Item) -> str:
        """See `Pipeline`: the task."""
        return item.source.template.task

    def quotas(self) -> Mapping[str, int]:
        """See `Pipeline`."""
        return self.counts

    def _is_right(self, sample: Sample, unit: float) -> bool:
        level = level_of(sample)
        return level is not None and abs(FIVE_LEVELS.index(level) - 4 * unit) <= self.tolerance

    def _examine(self, sample: Sample, unit: float) -> Finding:
        text, level = layout.thought(sample.text), level_of(sample)
        if text is None or not layout.has_both(sample.text):
            return Finding(problem="layout", detail=sample.text[:200])
        if level is None:
            return Finding(problem="no_level", detail=sample.text[-80:])
        if not self._is_right(sample, unit):
            return Finding(problem="wrong_level", detail=level)
        if match := _PLAN_TALK.search(text):
            return Finding(problem="mentions_plan", detail=match.group())
        if len(text.split()) < self.min_words:
            return Finding(problem="too_short", detail=text)
        return Finding(text=text, notes={"level": level})

    def _reject(self, outcome: Outcome, *, share: float, plan: str) -> Outcome:
        """Drop an image that teaches nothing; keep the more texts the harder it is.

        Args:
          share: of the samples, how many were right.
        """
        texts, notes = outcome.rationales, {"right_share": share, "plan": plan}
        if share >= self.easy_share or share <= self.hard_share:
            return Outcome(
                dropped=_with(outcome.dropped, of_rejected_image=len(texts)),
                reason="too_easy" if share >= self.easy_share else "too_hard",
                detail=f"{share:.0%} right",
                notes=notes,
            )
        if not texts:
            return dataclasses.replace(outcome, notes=notes)
        keep = max(1, math.ceil(self.texts * (1 - share)))
        return Outcome(
            rationales=texts[:keep],
            dropped=_with(outcome.dropped, enough=len(texts) - keep),
            notes=notes | {"texts": outcome.notes["texts"][:keep]},
        )


def level_of(sample: Sample) -> str | None:
    """The level that a whole answer names, or None."""
    answer = None if sample.problem else layout.answer(sample.text)
    level = "" if answer is None else answer.lower().rstrip(".")
    return level if level in FIVE_LEVELS else None


def _with(dropped: Mapping[str, int], **more: int) -> dict[str, int]:
    return {**dropped, **{reason: number for reason, number in more.items() if number > 0}}


def question_text(item: Item) -> str:
    """The words of the training question, without the system turn and the images."""
    content = item.source.template.messages(item.example)[-1]["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"].strip() for part in content if part["type"] == "text").strip()
