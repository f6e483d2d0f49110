"""The policy's own words: what it thinks of each image now, to be learned with the true score."""

import dataclasses
from collections.abc import Generator, Mapping
from typing import Any, Literal

from jaxqa.reasoning import layout
from jaxqa.reasoning.expert import Reply, Request, Sample
from jaxqa.reasoning.findings import Finding, gather
from jaxqa.reasoning.pipeline import Ask, Item, Steps
from jaxqa.rewards.parsing import parse_answer
from jaxqa.sampling.config import SamplingConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnWords:
    """Ask the training question itself and keep what stands in `<think>`; no filter but that.

    The score that the answer gives is noted and goes no further, so fine-tuning on the file sees
    the model's own reasons with the true labels. With several samples, equal answers count once.
    """

    name: Literal["own"] = "own"

    def write(self, item: Item, sampling: SamplingConfig) -> Steps:
        """See `Pipeline`."""
        reply = yield Ask(request=question(item, sampling))
        return (yield from gather(reply, self._examine))

    def lacks(self, item: Item) -> str | None:
        """See `Pipeline`: nothing."""
        del item
        return None

    def group(self, item: Item) -> str:
        """See `Pipeline`."""
        return item.source.name

    def quotas(self) -> Mapping[str, int]:
        """See `Pipeline`."""
        return {}

    def _examine(self, number: int, sample: Sample) -> Generator[Ask, Reply, Finding]:
        yield from ()
        return reading(sample)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReasoningText(OwnWords):
    """RACT: the reasoning text of a model trained on one data set, several samples per image.

    As `own`, but only answers that end in a score are kept: such a text led somewhere. The texts
    are the aligned labels of cross-domain fine-tuning, where a data set's own scores do not count:
    give its source a prompt that asks for text alone, and only one source a prompt with a score.

    Attributes:
      min_words: a shorter text says too little about the picture.
    """

    name: Literal["reasoning_text"] = "reasoning_text"  # type: ignore[assignment]
    min_words: int = 5

    def _examine(self, number: int, sample: Sample) -> Generator[Ask, Reply, Finding]:
        yield from ()
        found = reading(sample)
        if found.problem is None and found.notes["score"] is None:
            return Finding(problem="no_score", detail=sample.text[-200:])
        if found.problem is None and len(found.text.split()) < self.min_words:
            return Finding(problem="too_short", detail=found.text)
        return found


def question(item: Item, sampling: SamplingConfig) -> Request:
    """The question that training asks about the image."""
    example = item.example
    return Request(
        messages=tuple(item.source.template.messages(example)),
        images=(example.image, *example.extra_images),
        sampling=sampling,
        example_id=example.example_id,
    )


def reading(sample: Sample) -> Finding:
    """The thought of an answer, with the score it came to."""
    text = layout.thought(sample.text)
    if text is None:
        return Finding(problem="no_think_block", detail=sample.text[:200])
    notes: dict[str, Any] = {"score": parse_answer(sample.text).score}
    return Finding(text=text, notes=notes)
