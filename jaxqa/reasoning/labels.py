"""An image's label as pipelines need it: a share of its range, and a level in words."""

from jaxqa.reasoning.pipeline import Item

FIVE_LEVELS = ("bad", "poor", "fair", "good", "excellent")


def lacks_score(item: Item) -> str | None:
    """Why the prompt's range holds no score of the image, or None if it does."""
    template, score = item.source.template, item.source.score(item.example)
    if score is None:
        return f"label {item.example.score} gives prompt {template.name!r} no score"
    return template.check_score(score)


def unit_score(item: Item) -> float:
    """The label from 0 (worst) to 1 (best), of an image that does not lack one."""
    template, score = item.source.template, item.source.score(item.example)
    assert score is not None and template.low is not None and template.high is not None
    return (score - template.low) / (template.high - template.low)


def known_scales(item: Item) -> list[tuple[float, float]]:
    """(score, width of the range) as a share, in the prompt's range, and of 10 and 100."""
    unit, template = unit_score(item), item.source.template
    assert template.low is not None and template.high is not None
    width = template.high - template.low
    score = template.low + unit * width
    return [(unit, 1.0), (score, width), (10 * unit, 10.0), (100 * unit, 100.0)]


def five_level(unit: float) -> str:
    """The nearest of five evenly spaced levels."""
    return FIVE_LEVELS[min(4, max(0, round(4 * unit)))]
