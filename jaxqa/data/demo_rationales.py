"""Short reasons for a demo score, as a teacher would write them: which artefact, how strong.

A closed vocabulary: every sentence names the strength (one word per level), the artefact and the
quality that follows. Each has one wording in a rationale: a choice between synonyms teaches nothing
about the picture, and is noise in a policy gradient.
"""

import numpy as np

STRENGTHS = (
    ("Hardly visible", "Very faint"),
    ("Slight", "Mild"),
    ("Clear", "Noticeable"),
    ("Strong", "Heavy"),
    ("Extreme", "Severe"),
)
"""Words for levels 1 to 5; rationales use the first."""

ARTEFACTS: dict[str, tuple[str, str]] = {
    "jpeg": ("compression blocks", "blocking and ringing"),
    "gaussian_blur": ("soft blur", "defocus blur"),
    "motion_blur": ("motion blur", "directional blur"),
    "noise": ("random noise", "grainy noise"),
    "colour_quantisation": ("colour banding", "colour steps"),
    "darkening": ("darkening", "loss of light"),
    "rescaling": ("upscaling blur", "loss of resolution"),
    "pixelation": ("pixel blocks", "square pixelation"),
}
"""Words for each distortion; rationales use the first."""

VERDICTS = ("bad", "poor", "fair", "good", "excellent")
"""Words for scores around 1 to 5."""


def rationale(distortion: str, level: int, *, score: float) -> str:
    """Write one sentence about a distortion at level 1 to 5 whose synthetic score is 1 to 5."""
    verdict = VERDICTS[int(np.clip(round(score), 1, 5)) - 1]
    return f"{STRENGTHS[level - 1][0]} {ARTEFACTS[distortion][0]}; the quality is {verdict}."


def all_rationales() -> list[str]:
    """Every rationale that there can be."""
    levels = range(1, len(STRENGTHS) + 1)
    scores = [float(score) for score in range(1, len(VERDICTS) + 1)]
    return [
        rationale(artefact, level, score=score)
        for artefact in ARTEFACTS
        for level in levels
        for score in scores
    ]
