"""What one call of the sampler gave, for the diary: a record per completion, metrics per step.

A round is that of all processes: each parses the texts of its own rows and tells the others.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxqa import processes
from jaxqa.data.batching import PromptBatch
from jaxqa.rewards.answers import Answers, understood
from jaxqa.rewards.labels import TASKS
from jaxqa.typing import Int

UNREADABLE = "images_unreadable"
"""Metric of the steps that met such images: how many rows, which are left out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """Prompts of a round and what was answered, on the host.

    Attributes:
      example_ids: int64 [N].
      labels: float32 [N], NaN where there is none.
      tasks: int [N], places in `TASKS`.
      valid: bool [N], rows with a readable image.
      texts: [N][G].
      scores: [N][G], parsed from them; None where none was read.
      understood: bool [N G], where the kind of answer was read that the task asks for.
    """

    example_ids: np.ndarray
    labels: np.ndarray
    tasks: np.ndarray
    valid: np.ndarray
    texts: Sequence[Sequence[str]]
    scores: Sequence[Sequence[float | None]]
    understood: np.ndarray


def gather_facts(
    host: PromptBatch,
    texts: Sequence[Sequence[str]],
    answers: Answers,
    rows: Int[np.ndarray, "b"],
) -> Facts:
    """Facts of a whole round from those of each process's `rows`."""
    read = understood(answers, host.task)
    mine = [
        {
            "id": int(host.example_ids[row]),
            "label": float(host.labels[row]),  # NaN travels
            "task": int(host.task[row]),
            "valid": bool(host.valid[row]),
            "texts": list(texts[row]),
            "scores": [
                float(score) if valid else None
                for score, valid in zip(answers.score[row], answers.valid[row], strict=True)
            ],
            "understood": read[row].tolist(),
        }
        for row in range(len(rows))
    ]
    found = processes.exchange_rows(mine, rows)
    return Facts(
        example_ids=np.array([row["id"] for row in found], np.int64),
        labels=np.array([row["label"] for row in found], np.float32),
        tasks=np.array([row["task"] for row in found], np.int32),
        valid=np.array([row["valid"] for row in found], bool),
        texts=[row["texts"] for row in found],
        scores=[row["scores"] for row in found],
        understood=np.array([row["understood"] for row in found], bool),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """Groups that were sampled at once, on the host.

    Attributes:
      facts: of the N rows.
      rewards: float32 [N G].
      terms: by name, float32 [N G], what the rewards are made of.
      counters: by name, what the rewards say of the round.
      entropy: mean over the sampled tokens, nats.
      fresh: bool [N], rows with a readable image that are new in this training step.
      informative: bool [N], rows that pass the filter.
    """

    facts: Facts
    rewards: np.ndarray
    terms: dict[str, np.ndarray]
    counters: dict[str, np.ndarray]
    entropy: np.ndarray
    fresh: np.ndarray
    informative: np.ndarray

    @property
    def kept(self) -> np.ndarray:
        """Rows that may be trained on, bool [N]."""
        return self.fresh & self.informative

    def records(self) -> Iterator[dict[str, Any]]:
        """Every completion with what it earned."""
        facts, kept = self.facts, self.kept
        for row, column in np.ndindex(self.rewards.shape):
            label = facts.labels[row]
            yield {
                "example_id": int(facts.example_ids[row]),
                "completion": column,
                "text": facts.texts[row][column],
                "score": facts.scores[row][column],
                "reward": float(self.rewards[row, column]),
                "label": None if np.isnan(label) else float(label),
                "kept": bool(kept[row]),
            }


def reward_metrics(rounds: Sequence[Round]) -> dict[str, float]:
    """Means over all that was sampled; counters are means over the rounds; see `_of_tasks`."""
    rewards = np.concatenate([r.rewards for r in rounds])
    parts = {
        f"reward_{name}": _mean([np.mean(r.terms[name]) for r in rounds])
        for name in rounds[0].terms
    }
    counts = {name: _mean([r.counters[name] for r in rounds]) for name in rounds[0].counters}
    unreadable = sum(int((~r.facts.valid).sum()) for r in rounds)
    return {
        **({UNREADABLE: float(unreadable)} if unreadable else {}),
        **parts,
        **counts,
        **_of_tasks(rounds),
        "reward": _mean(rewards),
        "reward_std": _mean(rewards.std(axis=1, ddof=1)),
        "rollout_entropy": _mean([r.entropy for r in rounds]),
    }


def _of_tasks(rounds: Sequence[Round]) -> dict[str, float]:
    """Of each task: groups, and means over its completions or groups.

    `group_variance_<task>` is the rewards' variance within a group (with G - 1), `words_<task>` the
    length of a whole text, tags included, `unparsed_<task>` the share without the task's answer.
    """
    rewards = np.concatenate([r.rewards for r in rounds])
    words = np.array([[len(text.split()) for text in g] for r in rounds for g in r.facts.texts])
    tasks = np.concatenate([r.facts.tasks for r in rounds])
    read = np.concatenate([r.facts.understood for r in rounds])
    found = {}
    for task in np.unique(tasks):
        name, rows = TASKS[task], tasks == task
        found[f"groups_{name}"] = float(rows.sum())
        found[f"group_reward_{name}"] = _mean(rewards[rows])
        found[f"words_{name}"] = _mean(words[rows])
        found[f"unparsed_{name}"] = 1.0 - _mean(read[rows])
        found[f"group_variance_{name}"] = _mean(rewards[rows].var(axis=1, ddof=1))
    return found


def filter_metrics(rounds: Sequence[Round], kept: int) -> dict[str, float]:
    """What the filter did in a step, `kept` groups of which are trained on.

    Counts of groups: kept; filtered for want of variance; repeated, sampled twice in one step;
    surplus, beyond the batch; and the share of the fresh ones that were filtered, the rounds
    beyond the first, and 1 where nothing was left.
    """
    fresh = sum(int(r.fresh.sum()) for r in rounds)
    informative = sum(int(r.kept.sum()) for r in rounds)
    return {
        "groups_kept": float(kept),
        "groups_filtered": float(fresh - informative),
        "groups_repeated": float(sum(int((~r.fresh & r.facts.valid).sum()) for r in rounds)),
        "groups_surplus": float(informative - kept),
        "filtered_share": (fresh - informative) / max(fresh, 1),
        "resampled": float(len(rounds) - 1),
        "all_filtered": float(kept == 0),
    }


def _mean(values: Any) -> float:
    return float(np.mean(values))
