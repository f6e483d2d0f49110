"""An expert for trying a pipeline out without any: it repeats what the data set itself says."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from jaxqa.reasoning.expert import REFUSED, Check, Reply, Request, Sample
from jaxqa.reasoning.labels import FIVE_LEVELS, five_level, unit_score
from jaxqa.reasoning.pipeline import Item

_UNSURE = 0.12
"""Deviation of its levels from the truth, as a share of the range: some pictures are hard."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StandIn:
    """Answers every question with the data set's own rationale and score.

    It thinks nothing and sees nothing, so its texts are as good as the file they come from. Where a
    prompt offers the five levels it names one, a little off the truth at random, so that a
    pipeline that rejects what is too easy or too hard finds something to reject.

    Attributes:
      items: by example id, what may be asked about.
      seed: of its mistakes; they depend on it, the example and the number of the sample.
    """

    items: Mapping[int, Item]
    seed: int
    calls: Counter[str] = dataclasses.field(default_factory=Counter)

    def ask(self, requests: Sequence[Request], check: Check) -> list[Reply]:
        """See `Expert`. An example without a rationale is a problem of its samples."""
        check()
        self.calls["requests"] += len(requests)
        return [self._reply(request) for request in requests]

    def close(self) -> None:
        """Nothing to let go of."""

    def _reply(self, request: Request) -> Reply:
        count = request.sampling.num_samples
        item = self.items[request.example_id]
        rationale = item.example.rationale
        if rationale is None:
            detail = "the data set has no rationale for this image"
            return (Sample(problem=REFUSED, detail=detail),) * count
        levels = self._levels(item, count) if _offers_levels(request) else (_score(item),) * count
        return tuple(
            Sample(text=f"<think> {rationale} </think><answer> {level} </answer>")
            for level in levels
        )

    def _levels(self, item: Item, count: int) -> tuple[str, ...]:
        rng = np.random.default_rng([self.seed, item.example.example_id])
        return tuple(five_level(unit_score(item) + e) for e in rng.normal(0, _UNSURE, count))


def _offers_levels(request: Request) -> bool:
    content = request.messages[-1]["content"]
    texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
    return ", ".join(FIVE_LEVELS) in " ".join(texts)


def _score(item: Item) -> str:
    score = item.source.score(item.example)
    return "" if score is None else f"{score:.2f}"
