"""What each reward pays for an error of a given size (OmniQuality-R, figure 11)."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from jaxqa.evaluation.analysis import pictures
from jaxqa.rewards.answers import LAYOUTS, Answers, Targets
from jaxqa.rewards.labels import ABSENT
from jaxqa.rewards.registry import REWARDS, RewardTerm

_POINTS = 401

PAPERS = {
    "OmniQuality-R, Gaussian 0.8": RewardTerm(name="gaussian", options={"sigma": 0.8}),
    "Q-Insight, threshold 0.35": RewardTerm(name="threshold", options={"tolerance": 0.35}),
    "TATAR, quality": RewardTerm(name="adaptive_gaussian", options={"label_range": 4.0}),
    "TATAR, aesthetics": RewardTerm(
        name="adaptive_gaussian", options={"label_range": 4.0, "growth": 2.0, "scale": 1.5}
    ),
    "Aes-R1, error": RewardTerm(name="absolute_error", options={"sigma": 0.4}),
}
"""The papers' rewards of the error alone, on a scale from 1 to 5."""


def draw(
    terms: Mapping[str, RewardTerm] = PAPERS, *, low: float = 1.0, high: float = 5.0
) -> tuple[Figure, list[pictures.Row]]:
    """Reward over signed error, computed by the rewards themselves; the label is in the middle."""
    label = (low + high) / 2
    errors = np.linspace(low - label, high - label, _POINTS)
    figure, (axis,) = pictures.panels(1, size=(5.6, 2.6))
    rows = []
    for place, (name, term) in enumerate(terms.items()):
        values = shape(term, label + errors, label)
        colour = pictures.COLOURS[place % len(pictures.COLOURS)]
        axis.plot(errors, values, color=colour, lw=1.5, label=name)
        rows += [
            {"reward": name, "error": float(error), "value": float(value)}
            for error, value in zip(errors, values, strict=True)
        ]
    axis.set(xlabel="answer minus label", ylabel="reward", xlim=(errors[0], errors[-1]))
    axis.grid(True)
    axis.legend(frameon=False, fontsize=6.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure, rows


def shape(term: RewardTerm, answers: np.ndarray, label: float) -> np.ndarray:
    """The reward of each answer to one image with this label, weight included."""
    count = len(answers)
    none = np.full((1, count), ABSENT, np.int32)
    given = Answers(
        score=answers[None].astype(np.float32),
        valid=np.ones((1, count), np.bool_),
        layouts=np.ones((1, count, len(LAYOUTS)), np.bool_),
        word_count=np.full((1, count), 100, np.int32),
        class_id=none,
        severity_id=none,
        choice_id=none,
    )
    targets = Targets(
        score=np.array([label], np.float32),
        pool=np.zeros(1, np.int32),
        task=np.zeros(1, np.int32),
        class_id=none[:, 0],
        severity_id=none[:, 0],
        choice_id=none[:, 0],
    )
    values = np.asarray(REWARDS[term.name](given, targets, **term.options))[0]
    return term.weight * values.astype(np.float64)
