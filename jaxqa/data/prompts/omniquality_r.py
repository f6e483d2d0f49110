"""Prompts for OmniQuality-R: technical quality, aesthetics, text-image alignment, from 1 to 5.

The paper prints the technical question only; the other questions follow it, and the system turn is
worded here.
"""

import dataclasses

from jaxqa.data.prompts.template import PromptTemplate

TECHNICAL = PromptTemplate(
    name="omniquality_technical",
    task="quality",
    system=(
        "You rate images. Work out what the request is about, reason step by step inside <think> "
        "</think> tags, then give the rating inside <answer> </answer> tags: only a number from 1 "
        "(worst) to 5 (best) with two decimals."
    ),
    question="Please provide a technical quality rating for the image",
    answer="number",
    low=1.0,
    high=5.0,
)

AESTHETIC = dataclasses.replace(
    TECHNICAL,
    name="omniquality_aesthetic",
    task="aesthetics",
    question="Please provide an aesthetic quality rating for the image",
)

ALIGNMENT = dataclasses.replace(
    TECHNICAL,
    name="omniquality_alignment",
    task="alignment",
    question=(
        "Please provide a text-image alignment rating for the image, which was made from this "
        "text: {prompt}"
    ),
)

TEMPLATES = (TECHNICAL, AESTHETIC, ALIGNMENT)
