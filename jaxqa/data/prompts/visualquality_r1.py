"""Prompts of VisualQuality-R1, as published: with thinking, and answering at once."""

from jaxqa.data.prompts.template import PromptTemplate

_QUESTION = (
    "You are doing the image quality assessment task. Here is the question: What is your overall "
    "rating on the quality of this picture? The rating should be a float between 1 and 5, rounded "
    "to two decimal places, with 1 representing very poor quality and 5 representing excellent "
    "quality."
)

THINKING = PromptTemplate(
    name="visualquality_r1",
    task="quality",
    question=(
        f"{_QUESTION} First output the thinking process in <think> </think> tags and then output "
        "the final answer with only one score in <answer> </answer> tags."
    ),
    answer="number",
    low=1.0,
    high=5.0,
)

NON_THINKING = PromptTemplate(
    name="visualquality_r1_answer_only",
    task="quality",
    question=(
        f"{_QUESTION} Please only output the final answer with only one score in <answer> "
        "</answer> tags."
    ),
    answer="number",
    low=1.0,
    high=5.0,
    think=False,
)

TEMPLATES = (THINKING, NON_THINKING)
