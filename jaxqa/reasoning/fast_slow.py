"""TATAR's two ways of thinking: short and perceptual for quality, a narrative for aesthetics."""

import dataclasses
import re
from collections.abc import Generator, Mapping
from typing import Any, Literal

from jaxqa.data.readers import artimuse
from jaxqa.reasoning import keywords, layout, wording
from jaxqa.reasoning.expert import Reply, Sample
from jaxqa.reasoning.findings import Finding, gather
from jaxqa.reasoning.labels import known_scales, lacks_score
from jaxqa.reasoning.leaks import find_leak
from jaxqa.reasoning.pipeline import Ask, Item, Outcome, Steps
from jaxqa.reasoning.requests import ask, check_gaps, check_single
from jaxqa.reasoning.verdicts import read_verdict
from jaxqa.rewards.labels import TASKS
from jaxqa.sampling.config import SamplingConfig

_BAD_MARKERS = re.compile(  # "in the end" is English; "END" is a mark
    r"tool_call|</?(?:system|assistant|user)>|```|<script|(?-i:\bBEGIN\b|\bEND\b)", re.IGNORECASE
)
_ROLE_PREFIX = re.compile(r"^\s*(?:system|assistant|user|human|ai)\s*:", re.IGNORECASE | re.M)
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z])")

_NO_REMARKS = (
    f"no {artimuse.KEY}; put the data set's file of remarks beside its lists "
    "(`jaxqa data list artimuse10k`)"
)
_FAST_MARKS = ("visual_fidelity", "score_consistency")
_SLOW_MARKS = ("groundedness_no_fabrication", "reasoning_cohesion")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FastSlow:
    """Two sentences on what can be seen (quality), or a narrative from remarks (other tasks).

    The expert is told the score and repeats it in `<answer>`. Hard checks, in this order: bad
    markers, role prefixes, exactly one `<think>` and one `<answer>` and nothing else, a plain
    number, inside the prompt's range, the score not named, sentences and words, the attributes
    touched (slow). Then the judge, who sees the picture.

    Attributes:
      fast_tasks: tasks that are thought about fast; the others slowly.
      fast_prompt: of the short texts; gaps {score} {low} {high} {shortest} {longest}.
      slow_prompt: of the narratives; also {attributes} {aim}. Without `<image>` the expert works
        from the remarks alone; with {attributes} an image without remarks is dropped.
      judge_system, fast_judge_prompt, slow_judge_prompt: what the judge is asked; an empty prompt
        for no judge.
      fast_sentences: sentences of a short text: what follows them is cut off, fewer are dropped.
      fast_words: fewest and most words of a short text.
      slow_words: fewest and most words of a narrative.
      slow_aim: words that a narrative is asked to have.
      leak_tolerance: how near to the score a number may not be, as a share of the range.
      min_aspects: how many of the eight attributes a narrative must touch, by keyword.
      min_mark: least mark, from 0 to 5, in the questions that decide.
      judge_sampling: of the judge's reply.
    """

    name: Literal["fast_slow"] = "fast_slow"
    fast_tasks: tuple[str, ...] = ("quality",)
    fast_prompt: str = wording.FAST
    slow_prompt: str = wording.SLOW
    judge_system: str = wording.FAST_SLOW_JUDGE_SYSTEM
    fast_judge_prompt: str = wording.FAST_JUDGE
    slow_judge_prompt: str = wording.SLOW_JUDGE
    fast_sentences: int = 2
    fast_words: tuple[int, int] = (30, 50)
    slow_words: tuple[int, int] = (80, 260)
    slow_aim: int = 100
    leak_tolerance: float = 0.02
    min_aspects: int = 5
    min_mark: float = 3.0
    judge_sampling: SamplingConfig = SamplingConfig(temperature=0.0, max_new_tokens=256)

    def __post_init__(self):
        check_single("judge_sampling", self.judge_sampling)
        if unknown := set(self.fast_tasks) - set(TASKS):
            raise ValueError(f"fast_tasks names {sorted(unknown)}; expected some of {TASKS}")
        fast = {"score", "low", "high", "shortest", "longest"}
        check_gaps("fast_prompt", self.fast_prompt, fast)
        check_gaps("slow_prompt", self.slow_prompt, fast | {"attributes", "aim"})
        judged = {"score", "low", "high", "text"}
        check_gaps("fast_judge_prompt", self.fast_judge_prompt, judged)
        more = {"attributes", "touched", "causal"}
        check_gaps("slow_judge_prompt", self.slow_judge_prompt, judged | more)
        for name in ("fast_words", "slow_words"):
            shortest, longest = getattr(self, name)
            if not 0 <= shortest <= longest:
                raise ValueError(f"{name} is {(shortest, longest)}; expected fewest and most words")
        if self.fast_sentences < 1 or self.leak_tolerance < 0 or not 0 <= self.min_aspects <= 8:
            raise ValueError("fast_sentences at least 1, leak_tolerance at least 0, 8 aspects")

    def write(self, item: Item, sampling: SamplingConfig) -> Steps:
        """See `Pipeline`."""
        facts = self._facts(item)
        slow = self.group(item) == "slow"
        if slow and "{attributes}" in self.slow_prompt and not facts["attributes"]:
            return Outcome(reason="no_attributes", detail=_NO_REMARKS)
        prompt = self.slow_prompt if slow else self.fast_prompt
        reply = yield ask(item, prompt, sampling, facts=facts)

        def examine(number: int, sample: Sample) -> Generator[Ask, Reply, Finding]:
            text, problem, detail = self._hard_checks(item, sample.text, slow=slow)
            if problem is not None:
                return Finding(problem=problem, detail=detail)
            return (yield from self._judge(item, text, facts, slow=slow, turn=1 + number))

        return (yield from gather(reply, examine))

    def lacks(self, item: Item) -> str | None:
        """See `Pipeline`: a score."""
        return lacks_score(item)

    def group(self, item: Item) -> str:
        """See `Pipeline`: the way of thinking."""
        return "fast" if item.source.template.task in self.fast_tasks else "slow"

    def quotas(self) -> Mapping[str, int]:
        """See `Pipeline`."""
        return {}

    def _facts(self, item: Item) -> dict[str, Any]:
        template, slow = item.source.template, self.group(item) == "slow"
        words = self.slow_words if slow else self.fast_words
        return {
            "score": f"{item.source.score(item.example):.2f}",
            "low": f"{template.low:g}",
            "high": f"{template.high:g}",
            "shortest": words[0],
            "longest": words[1],
            "aim": self.slow_aim,
            "attributes": remarks(item.example.metadata.get(artimuse.KEY)),
        }

    def _hard_checks(self, item: Item, raw: str, *, slow: bool) -> tuple[str, str | None, str]:
        """The text, why it is dropped (None: it is not), and more of that."""
        if match := _BAD_MARKERS.search(raw) or _ROLE_PREFIX.search(raw):
            return "", "bad_marker", match.group().strip()
        text, answer = layout.thought(raw), layout.answer(raw)
        if text is None or answer is None or not layout.has_both(raw):
            return "", "layout", raw[:200]
        if not _NUMBER.fullmatch(answer):
            return "", "answer_not_a_number", answer[:80]
        if problem := item.source.template.check_score(float(answer)):
            return "", "answer_out_of_range", problem
        sentences = _SENTENCE_END.split(text)
        if not slow:
            text = " ".join(sentences[: self.fast_sentences])
        leak = find_leak(text, scores=known_scales(item), tolerance=self.leak_tolerance)
        if leak is not None:
            return "", "score_leak", leak
        words, (shortest, longest) = len(text.split()), self.slow_words if slow else self.fast_words
        if not shortest <= words <= longest:
            return "", "too_short" if words < shortest else "too_long", f"{words} words"
        if not slow and len(sentences) < self.fast_sentences:
            return "", "few_sentences", str(len(sentences))
        touched = keywords.touched(text, keywords.ATTRIBUTES)
        if slow and len(touched) < self.min_aspects:
            return "", "few_aspects", ", ".join(touched)
        return text, None, ""

    def _judge(
        self, item: Item, text: str, facts: Mapping[str, Any], *, slow: bool, turn: int
    ) -> Generator[Ask, Reply, Finding]:
        prompt = self.slow_judge_prompt if slow else self.fast_judge_prompt
        touched = keywords.touched(text, keywords.ATTRIBUTES) if slow else []
        notes: dict[str, Any] = {"aspects": touched} if slow else {}
        if not prompt:
            return Finding(text=text, notes=notes)
        more = {
            "text": text,
            "touched": ", ".join(touched) or "none",
            "causal": "yes" if keywords.has_causal_wording(text) else "no",
        }
        reply = yield ask(
            item,
            prompt,
            self.judge_sampling,
            facts={**facts, **more},
            role="judge",
            turn=turn,
            system=self.judge_system,
        )
        required = _SLOW_MARKS if slow else _FAST_MARKS
        others = (
            ("attribute_coverage", "score_derivation_smoothness") if slow else ("technical_rigor",)
        )
        verdict = read_verdict(reply, required=required, others=others, least=self.min_mark)
        if verdict.problem is not None:
            return Finding(problem=verdict.problem, detail=verdict.detail)
        return Finding(text=text, notes=notes | {"marks": verdict.marks})


def remarks(attributes: Any) -> str:
    """An example's remarks as lines in the fixed order of `keywords.ATTRIBUTES`; may be empty."""
    if not isinstance(attributes, Mapping):
        return ""
    found = ((name, str(attributes.get(name) or "").strip()) for name in keywords.ATTRIBUTES)
    return "\n".join(f"{name.replace('_', ' ')}: {text}" for name, text in found if text)
