"""Rewards in the call shapes of text-to-image trainers: one import, any model that jaxqa loads.

from jaxqa.selection.rewards import flow_grpo_reward, trl_reward
reward = trl_reward(jaxqa.load("runs/demo/export"), {"quality": 1, "aesthetics": 0.5})

Rewards are normalised: 0 is the worst and 1 the best score of the model; several tasks are
averaged with their weights. Tensors of PyTorch are taken, though PyTorch is never imported.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxqa.errors import UserError
from jaxqa.scoring.api import ImageScorer
from jaxqa.selection import arrays
from jaxqa.selection.panel import Panel, Verdict, Weights, panel

Rewards = list[float | None]
Details = dict[str, list[float]]


def trl_reward(
    scorer: ImageScorer | Panel,
    weights: Weights | None = None,
    *,
    column: str = "image",
    **options: Any,
) -> Callable[..., Rewards]:
    """A reward function of TRL's trainers: `f(prompts, completions, **columns)`.

    The images are the completions, alone or in messages (`{"type": "image", "image": ...}`); where
    a completion is text, they are in a column. An image without a score earns None, which TRL
    leaves out.

    Args:
      scorer: what `jaxqa.load` returns, or a panel of judges.
      weights: task -> weight; the scorer's first task alone by default.
      column: name of the column that holds the images, if the completions do not.
      **options: `mode`, `samples`, `temperature`, `seed`; see `panel.panel`.
    """
    judges = _panel(scorer, weights, options)

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Rewards:
        images = [_shown(completion) for completion in completions]
        if any(image is None for image in images):
            if column not in columns:
                raise UserError(
                    f"a completion holds no image and there is no column {column!r}; found "
                    f"{', '.join(columns) or 'no columns'}"
                )
            images = list(columns[column])
        texts = [_text_of(prompt) for prompt in prompts]
        return [verdict.combined for verdict in judges.judge(arrays.as_images(images), texts)]

    reward.__name__ = "_".join(name for name, weight in judges.weights.items() if weight)
    return reward


def flow_grpo_reward(
    scorer: ImageScorer | Panel,
    weights: Weights | None = None,
    *,
    failed: float | int | None = None,
    **options: Any,
) -> Callable[..., tuple[list[float], dict[str, Any]]]:
    """A score function of flow_grpo, ddpo-pytorch and TRL's DDPO: `f(images, prompts, metadata)`.

    Returns the scores and a dict with those of each judge, and with the errors.

    Args:
      scorer: what `jaxqa.load` returns, or a panel of judges.
      weights: task -> weight; the scorer's first task alone by default.
      failed: what an image without a score earns; None raises a UserError, for these trainers
        take numbers only and none may be made up.
      **options: `mode`, `samples`, `temperature`, `seed`; see `panel.panel`.
    """
    judges = _panel(scorer, weights, options)

    def score(images: Any, prompts: Sequence[str], metadata: Any = None, **_: Any):
        verdicts = judges.judge(arrays.as_images(images), list(prompts))
        return _numbers(verdicts, failed), _details(judges, verdicts)

    return score


def flow_grpo_multi_reward(
    scorer: ImageScorer | Panel,
    weights: Weights | None = None,
    *,
    failed: float | int | None = None,
    **options: Any,
) -> Callable[..., tuple[Details, dict[str, Any]]]:
    """The `reward_fn` of flow_grpo's training scripts, in the place of its `multi_score`.

    Returns a dict of lists: each judge's normalised scores, and their weighted mean as "avg",
    which the scripts train on.

    Args:
      scorer: what `jaxqa.load` returns, or a panel of judges.
      weights: task -> weight; the scorer's first task alone by default.
      failed: see `flow_grpo_reward`.
      **options: `mode`, `samples`, `temperature`, `seed`; see `panel.panel`.
    """
    judges = _panel(scorer, weights, options)

    def score(images: Any, prompts: Sequence[str], metadata: Any = None, *_: Any, **__: Any):
        verdicts = judges.judge(arrays.as_images(images), list(prompts))
        average = _numbers(verdicts, failed)
        details = _details(judges, verdicts)
        scores = {name: _known(v, failed, name) for name, v in details["scores"].items()}
        return {**scores, "avg": average}, {"errors": details["errors"]}

    return score


class ImageRewardLike:
    """A model in the call shape of ImageReward: `score(prompt, images)`, `inference_rank`."""

    def __init__(self, scorer: ImageScorer | Panel, weights: Weights | None = None, **options: Any):
        """Take a scorer and the weights of its tasks; alignment alone if the model rates it."""
        if weights is None and not isinstance(scorer, Panel) and "alignment" in scorer.tasks:
            weights = {"alignment": 1.0}
        self._judges = _panel(scorer, weights, options)

    def score(self, prompt: str, images: Any) -> float | list[float]:
        """The reward of an image, or of each of a list of images.

        Raises:
          UserError: an image without a score.
        """
        several = isinstance(images, list | tuple) or getattr(images, "ndim", 3) == 4
        rewards = self._rewards(prompt, images if several else [images])
        return rewards if several else rewards[0]

    def inference_rank(self, prompt: str, images: Any) -> tuple[list[int], list[float]]:
        """Place of each image (1 is the best; equal ones in their order), and the rewards.

        Raises:
          UserError: an image without a score.
        """
        rewards = self._rewards(prompt, images)
        ranking = np.empty(len(rewards), np.int64)
        ranking[np.argsort(-np.array(rewards), kind="stable")] = np.arange(1, len(rewards) + 1)
        return ranking.tolist(), rewards

    def _rewards(self, prompt: str, images: Any) -> list[float]:
        pictures = arrays.as_images(images)
        return _numbers(self._judges.judge(pictures, [prompt] * len(pictures)), None)


def _panel(scorer: ImageScorer | Panel, weights: Weights | None, options: Any) -> Panel:
    if not isinstance(scorer, Panel):
        return panel(scorer, weights, **options)
    if weights is not None or options:
        raise UserError("a panel has its own weights and questions; give none beside it")
    return scorer


def _numbers(verdicts: Sequence[Verdict], failed: float | int | None) -> list[float]:
    """The combined scores; `failed` where there is none.

    Raises:
      UserError: there is none, and `failed` is None.
    """
    for number, verdict in enumerate(verdicts):
        if verdict.combined is None and failed is None:
            raise UserError(f"image {number} has no score: {verdict.error}")
    return _known([verdict.combined for verdict in verdicts], failed, "the reward")


def _known(values: Sequence[float | None], failed: float | int | None, name: str) -> list[float]:
    """Numbers in the place of None; trainers take nothing else."""
    if failed is None and None in values:
        raise UserError(f"{name} is missing for image {list(values).index(None)}; see `failed`")
    return [float(failed or 0.0) if value is None else value for value in values]


def _details(judges: Panel, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    return {
        "scores": {
            judge.name: [verdict.scores[judge.name].normalised for verdict in verdicts]
            for judge in judges.judges
        },
        "errors": [verdict.error for verdict in verdicts],
    }


def _shown(completion: Any) -> Any:
    """The image of a completion: itself, or the last in its messages; None if there is none."""
    if isinstance(completion, str):
        return None
    if not isinstance(completion, list | tuple):
        return completion
    parts = [
        part
        for message in completion
        if isinstance(message, Mapping) and isinstance(message.get("content"), list | tuple)
        for part in message["content"]
        if isinstance(part, Mapping) and part.get("image") is not None
    ]
    return parts[-1]["image"] if parts else None


def _text_of(prompt: Any) -> str:
    """The text of a prompt: itself, or that of the last user's message."""
    if isinstance(prompt, str):
        return prompt
    for message in reversed(prompt):
        if message.get("role") == "user":
            content = message["content"]
            if isinstance(content, str):
                return content
            return " ".join(part["text"] for part in content if part.get("text"))
    raise UserError("a prompt has no message of the user; expected text, or messages with one")
