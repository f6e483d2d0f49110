"""An image's label as pipelines need it: a share of its range, and a level in words."""

from jaxqa.errors import UserError
from jaxqa.reasoning.pipeline import Item

FIVE_LEVELS = ("bad", "poor", "fair", "good", "excellent")


def unit_score(item: Item) -> float:
    """The label from 0 (worst) to 1 (best).

    Raises:
      UserError: the prompt asks for no score, or the example has none inside its range.
    """
    template = item.source.template
    score, low, high = item.source.score(item.example), template.low, template.high
    if score is None or low is None or high is None or template.check_score(score):
        raise UserError(
            f"example {item.example.example_id} of {item.example.dataset}: label "
            f"{item.example.score} gives prompt {template.name!r} no score; this pipeline needs one"
        )
    return (score - low) / (high - low)


def known_scales(item: Item) -> list[tuple[float, float]]:
    """(score, width of the range) as a share, in the prompt's range, and of 10 and 100."""
    unit, template = unit_score(item), item.source.template
    assert template.low is not None and template.high is not None  # `unit_score` saw to it
    width = template.high - template.low
    score = template.low + unit * width
    return [(unit, 1.0), (score, width), (10 * unit, 10.0), (100 * unit, 100.0)]


def five_level(unit: float) -> str:
    """The nearest of five evenly spaced levels."""
    return FIVE_LEVELS[min(4, max(0, round(4 * unit)))]
