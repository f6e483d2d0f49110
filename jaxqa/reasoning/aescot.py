"""AesCoT (Aes-R1): critiques that fit a score they do not name, filtered, balanced over levels."""

import dataclasses
from collections.abc import Generator, Mapping
from typing import Literal

from jaxqa.reasoning import keywords, layout, wording
from jaxqa.reasoning.expert import Reply, Sample
from jaxqa.reasoning.findings import Finding, gather
from jaxqa.reasoning.labels import known_scales, lacks_score, unit_score
from jaxqa.reasoning.leaks import find_leak
from jaxqa.reasoning.pipeline import Ask, Item, Steps
from jaxqa.reasoning.requests import ask, check_gaps, check_single
from jaxqa.reasoning.verdicts import read_verdict
from jaxqa.sampling.config import SamplingConfig

LEVELS = ("bad", "fair", "good")

# Aes-R1 paper, Table 6.
AESCOT_3K = {"bad": 1000, "fair": 1000, "good": 1000}
AESCOT_10K = {"bad": 2928, "fair": 3312, "good": 3660}

_MARKS = ("consistency", "factual", "natural")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AesCot:
    """Show the expert the picture and its score, keep critiques that do not give the score away.

    Filters, in this order: talk of scores and numbers near this one (`score_leak`); dimensions
    that the critique leaves out (`few_dimensions`); the judge's marks for agreement with the
    score, for facts and for arguing from the picture. Fine-tuning adds the score.

    Attributes:
      prompt: what the expert is asked; {score} is from 0 to 1.
      guidance: what is added to it: the five dimensions and the {level}; may be empty.
      judge_prompt: what the judge is asked about {text}, {score}, {level}; empty for no judge.
      bounds: scores, from 0 to 1, at which fair and good begin.
      counts: level -> critiqued pictures wanted; empty takes all.
      leak_tolerance: how near to the score a number may not be, as a share of the range.
      min_dimensions: how many of the five dimensions a critique must touch.
      min_mark: least mark, from 0 to 5, in each of the judge's questions.
      judge_sampling: of the judge's reply.
    """

    name: Literal["aescot"] = "aescot"
    prompt: str = wording.AESCOT
    guidance: str = wording.AESCOT_GUIDANCE
    judge_prompt: str = wording.AESCOT_JUDGE
    bounds: tuple[float, float] = (0.4, 0.7)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    leak_tolerance: float = 0.05
    min_dimensions: int = 4
    min_mark: float = 3.0
    judge_sampling: SamplingConfig = SamplingConfig(temperature=0.0, max_new_tokens=256)

    def __post_init__(self):
        check_single("judge_sampling", self.judge_sampling)
        check_gaps("prompt", self.prompt, {"score", "level"})
        check_gaps("guidance", self.guidance, {"score", "level"})
        check_gaps("judge_prompt", self.judge_prompt, {"score", "level", "text"})
        if not 0 < self.bounds[0] < self.bounds[1] < 1:
            raise ValueError(f"bounds is {self.bounds}; expected two rising numbers in (0, 1)")
        if unknown := self.counts.keys() - set(LEVELS):
            raise ValueError(f"counts names {sorted(unknown)}; expected some of {LEVELS}")
        most = len(keywords.DIMENSIONS)
        if self.leak_tolerance < 0 or not 0 <= self.min_dimensions <= most:
            raise ValueError(
                f"leak_tolerance is {self.leak_tolerance} and min_dimensions "
                f"{self.min_dimensions}; expected at least 0, and at most {most} dimensions"
            )

    def write(self, item: Item, sampling: SamplingConfig) -> Steps:
        """See `Pipeline`."""
        prompt = f"{self.prompt}\n{self.guidance}" if self.guidance else self.prompt
        reply = yield ask(item, prompt, sampling, facts=self._facts(item))

        def examine(number: int, sample: Sample) -> Generator[Ask, Reply, Finding]:
            return (yield from self._examine(item, sample, turn=1 + number))

        return (yield from gather(reply, examine))

    def lacks(self, item: Item) -> str | None:
        """See `Pipeline`: a score."""
        return lacks_score(item)

    def group(self, item: Item) -> str:
        """See `Pipeline`: the level."""
        unit = unit_score(item)
        return LEVELS[sum(unit >= bound for bound in self.bounds)]

    def quotas(self) -> Mapping[str, int]:
        """See `Pipeline`."""
        return self.counts

    def _facts(self, item: Item) -> dict[str, str]:
        return {"score": f"{unit_score(item):.2f}", "level": self.group(item)}

    def _examine(self, item: Item, sample: Sample, *, turn: int) -> Generator[Ask, Reply, Finding]:
        text = layout.plain(sample.text)
        if text is None:
            return Finding(problem="tags", detail=sample.text[:200])
        leak = find_leak(text, scores=known_scales(item), tolerance=self.leak_tolerance)
        if leak is not None:
            return Finding(problem="score_leak", detail=leak)
        touched = keywords.touched(text, keywords.DIMENSIONS)
        if len(touched) < self.min_dimensions:
            return Finding(problem="few_dimensions", detail=", ".join(touched))
        if not self.judge_prompt:
            return Finding(text=text, notes={"dimensions": touched})
        reply = yield ask(
            item,
            self.judge_prompt,
            self.judge_sampling,
            facts=self._facts(item) | {"text": text},
            role="judge",
            turn=turn,
        )
        verdict = read_verdict(reply, required=_MARKS, least=self.min_mark)
        if verdict.problem is not None:
            return Finding(problem=verdict.problem, detail=verdict.detail)
        return Finding(text=text, notes={"dimensions": touched, "marks": verdict.marks})
