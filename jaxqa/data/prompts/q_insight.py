"""Prompts of Q-Insight: a score, the kind and strength of a degradation, a comparison.

System turn and score question are the published wording (RACT paper, Table A.4, in the spelling of
the released Q-Insight code); the other two questions are worded here and ask for the same labels.
"""

from jaxqa.data.prompts.template import PromptTemplate

SYSTEM = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant "
    "solves it. The assistant first thinks about the reasoning process in the mind and then "
    "provides the user with the answer. The reasoning process and answer are enclosed within "
    "<think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning "
    "process here </think><answer> answer here </answer>"
)

_RATING = (
    "What is your overall rating on the quality of this picture? The rating should be a float "
    "between 1 and 5, rounded to two decimal places, with 1 representing very poor quality "
    "and 5 representing excellent quality."
)

SCORE = PromptTemplate(
    name="q_insight",
    task="quality",
    system=SYSTEM,
    question=(
        f"{_RATING} Return the final answer in JSON format with the following keys: "
        '"rating": The score.'
    ),
    answer="json",
    low=1.0,
    high=5.0,
)

ANSWER_ONLY = PromptTemplate(
    name="q_insight_answer_only",
    task="quality",
    question=(
        f"{_RATING} Write only the final answer, inside <answer> </answer> tags, in JSON format "
        'with the following keys: "rating": The score.'
    ),
    answer="json",
    low=1.0,
    high=5.0,
    think=False,
)

DEGRADATION = PromptTemplate(
    name="q_insight_degradation",
    task="degradation",
    system=SYSTEM,
    question=(
        "Which single distortion harms the quality of this picture most, and how strong is it? "
        "The distortion is one of noise, compression, blur, darken, or null if the picture is "
        "not distorted. The severity is one of slight, moderate, obvious, serious, catastrophic, "
        "or null if the picture is not distorted. Return the final answer in JSON format with "
        'the following keys, both strings: "distortion_class": The distortion. "severity": The '
        "severity."
    ),
    answer="degradation",
)

COMPARISON = PromptTemplate(
    name="q_insight_comparison",
    task="comparison",
    system=SYSTEM,
    question=(
        "Given a low-quality reference image and two enhanced outputs. Reference Image:<image>"
        "Image A:<image>Image B:<image>"
        "Which of the two outputs has the better quality and stays true to the reference? Answer "
        "with exactly one of: Image A, Image B, Similar."
    ),
    answer="choice",
)

TEMPLATES = (SCORE, ANSWER_ONLY, DEGRADATION, COMPARISON)
