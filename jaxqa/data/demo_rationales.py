"""Short reasons for a demo score, as a teacher would write them: which artefact, how strong.

A closed vocabulary: every sentence is one of a few patterns with words for the artefact, for its
strength (one set of words per level) and for what it does to the picture.
"""

import numpy as np

STRENGTHS = (
    ("hardly visible", "very faint"),
    ("slight", "mild"),
    ("clear", "noticeable"),
    ("strong", "heavy"),
    ("extreme", "severe"),
)
"""Words for levels 1 to 5."""

ARTEFACTS: dict[str, tuple[str, ...]] = {
    "jpeg": ("compression blocks", "JPEG blocks"),
    "gaussian_blur": ("soft blur", "defocus blur"),
    "motion_blur": ("motion blur", "directional blur"),
    "noise": ("random noise", "grainy noise"),
    "colour_quantisation": ("colour banding", "colour steps"),
    "darkening": ("darkening", "loss of light"),
    "rescaling": ("smeared upscaling", "low resolution blur"),
    "pixelation": ("pixel blocks", "square pixelation"),
}

EFFECTS = (
    ("details stay crisp", "everything stays intact"),
    ("fine detail suffers a little", "most detail remains"),
    ("fine detail is reduced", "some detail is lost"),
    ("much detail is lost", "edges are damaged"),
    ("little is left of the scene", "most structure is destroyed"),
)
"""What levels 1 to 5 do to the picture."""

VERDICTS = ("excellent", "good", "fair", "poor", "bad")
"""Words for scores 5 down to 1."""


def rationale(distortion: str, level: int, *, score: float, rng: np.random.Generator) -> str:
    """One sentence about an artefact, its strength and the quality, drawn by `rng`."""
    artefact = str(rng.choice(ARTEFACTS[distortion]))
    strength = str(rng.choice(STRENGTHS[level - 1]))
    effect = str(rng.choice(EFFECTS[level - 1]))
    verdict = VERDICTS[int(np.clip(round(5 - score), 0, 4))]
    opening = str(rng.choice(("I see", "There is", "The image shows")))
    return f"{opening} {strength} {artefact}; {effect}, so quality is {verdict}."


def vocabulary_corpus() -> list[str]:
    """Text that holds every word and number the demo's completions can have."""
    words = [*VERDICTS, "I see", "There is", "The image shows", "so quality is"]
    for group in (*STRENGTHS, *EFFECTS, *ARTEFACTS.values()):
        words.extend(group)
    return words
