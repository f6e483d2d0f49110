"""Where training rows come from: examples, how they are asked about, and how often."""

import dataclasses
import math
from collections.abc import Sequence

from jaxqa.data.prompts.template import PromptTemplate
from jaxqa.data.records import Example
from jaxqa.data.scales import ScoreScale
from jaxqa.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Examples that are asked about in one way; picklable, for loader workers.

    Attributes:
        name: what the config calls it.
        examples: no two of one id.
        template: how they are asked about; its task is the rows' task.
        scale: between their labels and the prompt's range; None if they are the same.
        weight: share of the training rows, relative to the other sources' weights.
    """

    name: str
    examples: Sequence[Example]
    template: PromptTemplate
    scale: ScoreScale | None = None
    weight: float = 1.0

    def __post_init__(self):
        if not (self.weight >= 0 and math.isfinite(self.weight)):
            raise ValueError(f"source {self.name!r}: weight is {self.weight}, expected at least 0")

    def score(self, example: Example) -> float | None:
        """The example's label in the prompt's range; None where there is none or none is wanted."""
        if example.score is None or self.template.low is None:
            return None
        return self.scale.to_prompt(example.score) if self.scale else example.score

    def label(self, score: float) -> float:
        """The label that an answered number means."""
        return self.scale.to_label(score) if self.scale else score

    def pool(self, example: Example) -> tuple[str, str, str]:
        """What an example shares with those that it may be ranked against.

        The data set and the task; for text-image alignment the text prompt as well.
        """
        task = self.template.task
        return example.dataset, task, (example.prompt or "") if task == "alignment" else ""


def check_ids(sources: Sequence[Source]) -> None:
    """Raise UserError where a source has two examples of one id, which random keys derive from."""
    for source in sources:
        if len({example.example_id for example in source.examples}) != len(source.examples):
            raise UserError(
                f"two examples of source {source.name!r} have the same example_id; expected one "
                "id for each"
            )
