"""Prompt of Aes-R1 (paper, appendix B, "Prompt Used for Aesthetic Scoring"), scores from 0 to 1."""

from jaxqa.data.prompts.template import PromptTemplate

SCORE = PromptTemplate(
    name="aes_r1",
    task="aesthetics",
    question=(
        "You are an aesthetic expert. What is your overall rating on the aesthetic of this "
        "picture <image> ? The rating should be a float between 0 and 1, rounded to two decimal "
        "places, with 0 representing very poor quality and 1 representing excellent quality. Your "
        "task:1. Think through the question, put all your thinking or reasoning process in only "
        "one pair <think>...</think> tags.2. Then provide the correct rating inside only one pair "
        "of <answer>...</answer> tags.3. No any other information or text outside of these tags. "
        "E.g. your response should be:<think>...</think><answer>...</answer>"
    ),
    answer="number",
    low=0.0,
    high=1.0,
)

TEMPLATES = (SCORE,)
