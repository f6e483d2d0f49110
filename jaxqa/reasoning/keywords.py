"""Which aspects a text touches, by keyword."""

import re
from collections.abc import Mapping

# Stems: "compos" also finds composition and composed.
DIMENSIONS: Mapping[str, tuple[str, ...]] = {
    "light and shadow": ("light", "shadow", "lit", "backlit", "glow", "contrast", "sunlit"),
    "mood and narrative": (
        *("mood", "narrativ", "story", "emotion", "atmospher", "feeling", "evok", "drama"),
        *("express", "tension", "seren", "mystery"),
    ),
    "composition": (
        *("compos", "framing", "framed", "balanc", "symmetr", "crop", "perspective", "placement"),
        *("foreground", "background", "clutter", "leading line", "focal", "negative space"),
    ),
    "color": ("color", "colour", "hue", "saturat", "palette", "tone", "tonal", "warm", "monochrom"),
    "exposure": (
        *("expos", "bright", "dark", "highlight", "blown", "clipp", "dynamic range", "high key"),
        *("low key", "high-key", "low-key"),
    ),
}
"""The five dimensions of AesCoT."""

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "composition_structure": (
        *("compos", "framing", "balanc", "symmetr", "layout", "perspective", "crop", "foreground"),
        *("background", "placement"),
    ),
    "visual_elements": (
        *("color", "colour", "line", "shape", "texture", "light", "tone", "form", "pattern"),
        "contrast",
    ),
    "technical_execution": (
        *("sharp", "focus", "expos", "noise", "grain", "blur", "detail", "resolution", "depth"),
        "crisp",
    ),
    "originality_creativity": (
        *("original", "creativ", "unusual", "inventive", "cliche", "novel", "distinctive"),
        *("imaginat", "conventional", "familiar"),
    ),
    "theme_communication": (
        *("theme", "subject", "message", "story", "narrativ", "meaning", "idea", "concept"),
        *("convey", "communicat"),
    ),
    "emotion_viewer_response": (
        *("emotion", "feel", "mood", "atmospher", "evok", "viewer", "engag", "touch", "stir"),
        "moving",
    ),
    "overall_gestalt": (
        *("whole", "unity", "unified", "coheren", "harmon", "together", "gestalt", "integrat"),
        *("cohesi", "as one"),
    ),
    "overall_evaluation": (
        *("overall", "in sum", "altogether", "on balance", "ultimately", "strength", "weakness"),
        *("in the end", "impression", "succeed"),
    ),
}
"""The attributes of TATAR's aesthetic narratives, in the order in which they are told."""

CAUSAL = ("because", "therefore", "thus", "hence", "since", "leads to", "as a result", "so that")
"""Words that connect a reason to what follows."""


def touched(text: str, aspects: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The aspects of which at least one keyword begins a word of the text."""
    return [name for name, stems in aspects.items() if _begins(text, stems)]


def has_causal_wording(text: str) -> bool:
    """Whether a whole connective stands in the text."""
    return re.search(rf"\b(?:{'|'.join(CAUSAL)})\b", text, re.IGNORECASE) is not None


def _begins(text: str, stems: tuple[str, ...]) -> bool:
    return re.search(rf"\b(?:{'|'.join(map(re.escape, stems))})", text, re.IGNORECASE) is not None
