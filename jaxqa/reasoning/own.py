"""The policy's own words: what it thinks of each image now, to be learned with the true score."""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping
from typing import Literal

from jaxqa.reasoning.expert import Request, Sample
from jaxqa.reasoning.pipeline import Ask, Item, Outcome, Steps
from jaxqa.reasoning.rationale_file import EXPERT_FAILED
from jaxqa.sampling.config import SamplingConfig

_THOUGHT = re.compile(r"<think>((?:(?!</?think>).)*)</think>", re.DOTALL)
_TAGS = re.compile(r"</?(?:think|answer)>|<\|[a-z_]+\|>")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnWords:
    """Ask the training question itself and keep what stands in `<think>`; no filter but layout.

    The score that the answer gives is thrown away, so fine-tuning on the file sees the model's own
    reasons with the true labels. With several samples, equal texts count once.
    """

    name: Literal["own"] = "own"

    def write(self, item: Item, sampling: SamplingConfig) -> Steps:
        """See `Pipeline`."""
        reply = yield Ask(request=question(item, sampling))
        texts: list[str] = []
        dropped: Counter[str] = Counter()
        problems: list[str] = []
        for sample in reply:
            problem = refuse(sample)
            text = None if problem else thought(sample.text)
            if problem or text is None:
                dropped[problem or "no_think_block"] += 1
                problems.append(sample.error or sample.text[:200])
            elif text in texts:
                dropped["repeated"] += 1
            else:
                texts.append(text)
        return outcome_of(texts, dropped, problems)

    def group(self, item: Item) -> str:
        """See `Pipeline`."""
        return item.example.dataset

    def quotas(self) -> Mapping[str, int]:
        """See `Pipeline`."""
        return {}


def question(item: Item, sampling: SamplingConfig) -> Request:
    """The question that training asks about the image."""
    example = item.example
    return Request(
        messages=tuple(item.template.messages(example)),
        images=(example.image, *example.extra_images),
        sampling=sampling,
        example_id=example.example_id,
    )


def refuse(sample: Sample) -> str | None:
    """Reason to drop a sample for how it ended, whatever it says."""
    if sample.failed:
        return EXPERT_FAILED
    return None if sample.error is None else "no_whole_answer"


def thought(text: str) -> str | None:
    """What stands in the only `<think>` block; None if there is not exactly one, or it is empty."""
    found = _THOUGHT.findall(text)
    if len(found) != 1 or not found[0].strip() or _TAGS.search(found[0]):
        return None
    return found[0].strip()


def outcome_of(
    texts: list[str], dropped: Mapping[str, int], problems: list[str], **notes: object
) -> Outcome:
    """Kept if there is a text; else dropped for the first of the reasons."""
    if texts:
        return Outcome(rationales=tuple(texts), dropped=dropped, notes=notes)
    return Outcome(
        dropped=dropped,
        reason=next(iter(dropped)),
        detail=problems[0] if problems else "",
        notes=notes,
    )
