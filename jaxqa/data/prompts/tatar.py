"""Prompts for TATAR: fast for quality, slow for aesthetics, scores from 0 to 100.

TATAR's repository states no licence, so these are worded here and ask for the same. To drive a
released checkpoint, replace `system` and `question` of a data source by what it was trained on.
The released evaluation asks otherwise than the training did; the `_eval` prompts do likewise.
"""

import dataclasses

from jaxqa.data.prompts.template import PromptTemplate

_SYSTEM = (
    "You judge pictures. You may first think inside <think> </think> tags ({}). Then you must give "
    "the score inside <answer> </answer> tags: a single number and nothing else."
)

_RANGE = "on a scale from 0 (worst) to 100 (best), with two decimals."

QUALITY = PromptTemplate(
    name="tatar_quality",
    task="quality",
    system=_SYSTEM.format("briefly or in detail"),
    question=(
        f"Score the technical quality of this picture {_RANGE} Look for blur, noise, compression "
        "artefacts, exposure and colour. A brief reason is enough."
    ),
    answer="number",
    low=0.0,
    high=100.0,
)

AESTHETICS = dataclasses.replace(
    QUALITY,
    name="tatar_aesthetics",
    task="aesthetics",
    question=(
        f"Score the aesthetics of this picture {_RANGE} Consider composition, lighting, colour "
        "harmony, subject, technique, originality and the feeling it gives before you decide."
    ),
)

QUALITY_EVAL = dataclasses.replace(
    QUALITY,
    name="tatar_quality_eval",
    system=_SYSTEM.format("briefly or not at all"),
    question=(
        f"Score the technical quality of this picture {_RANGE} Look for blur, noise, compression "
        "artefacts, exposure and colour. You may give the score without any reasons."
    ),
)

AESTHETICS_EVAL = dataclasses.replace(
    AESTHETICS, name="tatar_aesthetics_eval", system=QUALITY_EVAL.system
)

TEMPLATES = (QUALITY, AESTHETICS, QUALITY_EVAL, AESTHETICS_EVAL)
