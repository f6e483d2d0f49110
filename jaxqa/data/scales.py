"""Labels of a data set and numbers in a prompt's range: a linear map, there and back.

Ranges and directions are facts of the registry and of the prompt; nothing is guessed from values.
"""

import dataclasses
import math
from typing import Literal

from jaxqa.data.prompts.template import PromptTemplate
from jaxqa.data.records import DatasetInfo
from jaxqa.errors import UserError

LabelRange = Literal["label", "measured"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreScale:
    """Maps `worst` of the labels to `low` of the prompt and `best` to `high`, and back.

    The ends map to each other exactly, and so does everything where both ranges are the same.

    Attributes:
        worst: label of the poorest image; the larger number where lower labels are better.
        best: label of the finest image.
        low: lowest number that the prompt asks for.
        high: highest number that the prompt asks for.
    """

    worst: float
    best: float
    low: float
    high: float

    def __post_init__(self):
        ends = (self.worst, self.best, self.low, self.high)
        if not all(map(math.isfinite, ends)) or self.worst == self.best or self.low >= self.high:
            raise ValueError(
                f"labels from {self.worst} to {self.best} and numbers from {self.low} to "
                f"{self.high}; expected finite ends, two different labels and low < high"
            )

    @property
    def is_identity(self) -> bool:
        """Whether labels and numbers of the prompt are the same."""
        return (self.worst, self.best) == (self.low, self.high)

    def to_prompt(self, label: float) -> float:
        """The number that the prompt wants for a label."""
        return _map(label, (self.worst, self.best), (self.low, self.high))

    def to_label(self, score: float) -> float:
        """The label that a number in an answer means."""
        return _map(score, (self.low, self.high), (self.worst, self.best))


def _map(value: float, source: tuple[float, float], target: tuple[float, float]) -> float:
    if source == target:
        return value
    share = (value - source[0]) / (source[1] - source[0])
    return target[0] * (1 - share) + target[1] * share


def score_scale(
    info: DatasetInfo, template: PromptTemplate, labels: LabelRange = "label"
) -> ScoreScale | None:
    """The map between a data set's labels and a prompt's range; None where no score is asked for.

    Args:
        labels: "label" spreads the range that labels can have, "measured" the range from the
            lowest to the highest label of the published data set, as papers do that normalise by
            minimum and maximum.

    Raises:
        UserError: "measured", and the registry does not state that range.
    """
    if template.low is None or template.high is None:
        return None
    ends = info.label_range
    if labels == "measured":
        if info.measured_range is None:
            raise UserError(
                f'scale "measured": the registry states no measured range of {info.name}; use '
                f'scale "label", its label range {ends[0]:g} to {ends[1]:g}'
            )
        ends = info.measured_range
    worst, best = ends if info.higher_is_better else ends[::-1]
    return ScoreScale(worst=worst, best=best, low=template.low, high=template.high)
