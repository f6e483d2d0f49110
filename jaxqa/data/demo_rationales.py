"""Short reasons for a demo score, as a teacher would write them: which artefact, how strong.

A closed vocabulary: every sentence names the strength (one set of words per level), the artefact,
what it does to the picture and the quality that follows, each in one of two wordings.
"""

import numpy as np

STRENGTHS = (
    ("Hardly visible", "Very faint"),
    ("Slight", "Mild"),
    ("Clear", "Noticeable"),
    ("Strong", "Heavy"),
    ("Extreme", "Severe"),
)
"""Words for levels 1 to 5."""

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
"""Words for each distortion."""

EFFECTS = (
    ("details stay crisp", "everything stays intact"),
    ("fine detail suffers a little", "most detail remains"),
    ("fine detail is reduced", "some detail is lost"),
    ("much detail is lost", "edges are damaged"),
    ("little is left of the scene", "most structure is destroyed"),
)
"""What levels 1 to 5 do to the picture."""

VERDICTS = ("bad", "poor", "fair", "good", "excellent")
"""Words for scores around 1 to 5."""


def rationale(distortion: str, level: int, *, score: float, rng: np.random.Generator) -> str:
    """Write one sentence about a distortion at level 1 to 5 whose synthetic score is 1 to 5.

    Wordings are drawn with `rng`, so a seed fixes the sentence.
    """
    verdict = VERDICTS[int(np.clip(round(score), 1, 5)) - 1]
    strength, artefact, effect = (
        wordings[rng.integers(len(wordings))]
        for wordings in (STRENGTHS[level - 1], ARTEFACTS[distortion], EFFECTS[level - 1])
    )
    return f"{strength} {artefact}; {effect}; the quality is {verdict}."


def all_rationales() -> list[str]:
    """Sentences that hold every wording, for training a tokenizer."""
    sentences = []
    for artefacts in ARTEFACTS.values():
        for strengths, effects, verdict in zip(STRENGTHS, EFFECTS, VERDICTS, strict=True):
            for strength, artefact, effect in zip(strengths, artefacts, effects, strict=True):
                sentences.append(f"{strength} {artefact}; {effect}; the quality is {verdict}.")
    return sentences
