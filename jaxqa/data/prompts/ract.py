"""Prompts of RACT (paper, Table A.4): its score prompt is Q-Insight's; this is the description.

The target is the quality reasoning text alone, without tags and score. The table gives a system
turn for reinforcement learning only, so the description has none.
"""

from jaxqa.data.prompts.template import PromptTemplate

DESCRIPTION = PromptTemplate(
    name="ract_description",
    task="quality",
    question="What is your overall assessment of the quality of this picture?",
    answer="text",
)

TEMPLATES = (DESCRIPTION,)
