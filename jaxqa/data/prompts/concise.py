"""Short prompts of every task, for models that train on a laptop.

`concise` rates quality from 1 to 5; `_unit` prompts rate from 0 to 1 and `_percent` prompts from 0
to 100, as some of the published systems do.
"""

import dataclasses

from jaxqa.data.prompts.template import PromptTemplate

_RANGES = {"": (1.0, 5.0), "_unit": (0.0, 1.0), "_percent": (0.0, 100.0)}
_THINK = "<think> why </think>"


def _rating(name: str, task: str, what: str, ending: str) -> PromptTemplate:
    low, high = _RANGES[ending]
    return PromptTemplate(
        name=f"{name}{ending}",
        task=task,
        system="Judge the picture.",
        question=(
            f"Rate its {what} from {low:.0f} to {high:.0f}, two decimals: {_THINK}"
            "<answer> score </answer>"
        ),
        answer="number",
        low=low,
        high=high,
    )


QUALITY, QUALITY_UNIT, QUALITY_PERCENT = (
    _rating("concise", "quality", "quality", ending) for ending in _RANGES
)
AESTHETICS, AESTHETICS_UNIT, AESTHETICS_PERCENT = (
    _rating("concise_aesthetics", "aesthetics", "beauty", ending) for ending in _RANGES
)

ANSWER_ONLY = dataclasses.replace(
    QUALITY,
    name="concise_answer_only",
    question="Rate its quality from 1 to 5, two decimals: <answer> score </answer>",
    think=False,
)

ALIGNMENT = dataclasses.replace(
    QUALITY,
    name="concise_alignment",
    task="alignment",
    question=(
        "Rate from 1 to 5, two decimals, how well it shows: {prompt}. "
        f"{_THINK}<answer> score </answer>"
    ),
)

DEGRADATION = PromptTemplate(
    name="concise_degradation",
    task="degradation",
    system="Judge the picture.",
    question=f"Name its distortion_class and severity in JSON: {_THINK}<answer> JSON </answer>",
    answer="degradation",
)

COMPARISON = PromptTemplate(
    name="concise_comparison",
    task="comparison",
    system="Judge the pictures.",
    question=(
        "Reference:<image>Image A:<image>Image B:<image>Which is better, or Similar? "
        f"{_THINK}<answer> choice </answer>"
    ),
    answer="choice",
)

DESCRIPTION = PromptTemplate(
    name="concise_description",
    task="quality",
    system="Judge the picture.",
    question="Describe its quality.",
    answer="text",
)
AESTHETICS_DESCRIPTION = dataclasses.replace(
    DESCRIPTION,
    name="concise_aesthetics_description",
    task="aesthetics",
    question="Describe its beauty.",
)

TEMPLATES = (
    *(QUALITY, QUALITY_UNIT, QUALITY_PERCENT),
    *(AESTHETICS, AESTHETICS_UNIT, AESTHETICS_PERCENT),
    *(ANSWER_ONLY, ALIGNMENT, DEGRADATION, COMPARISON, DESCRIPTION, AESTHETICS_DESCRIPTION),
)
