"""What one call of the sampler gave, for the diary: a record per completion, metrics per step."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxqa.data.batching import PromptBatch
from jaxqa.rewards.answers import Answers
from jaxqa.rewards.labels import TASKS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """Groups that were sampled at once, on the host.

    Attributes:
      prompts: N rows.
      texts: [N][G].
      answers: [N G], parsed from them.
      rewards: float32 [N G].
      terms: by name, float32 [N G], what the rewards are made of.
      counters: by name, what the rewards say of the round.
      entropy: mean over the sampled tokens, nats.
      fresh: bool [N], rows with a readable image that are new in this training step.
      informative: bool [N], rows that pass the filter.
    """

    prompts: PromptBatch
    texts: Sequence[Sequence[str]]
    answers: Answers
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
        host, answers, kept = self.prompts, self.answers, self.kept
        for row, column in np.ndindex(self.rewards.shape):
            valid, label = answers.valid[row, column], host.labels[row]
            yield {
                "example_id": int(host.example_ids[row]),
                "completion": column,
                "text": self.texts[row][column],
                "score": float(answers.score[row, column]) if valid else None,
                "reward": float(self.rewards[row, column]),
                "label": None if np.isnan(label) else float(label),
                "kept": bool(kept[row]),
            }


def reward_metrics(rounds: Sequence[Round]) -> dict[str, float]:
    """Means over all that was sampled; counters are means over the rounds.

    `group_variance_<task>` is the rewards' variance within a group (with G - 1), mean over the
    task's groups.
    """
    rewards = np.concatenate([r.rewards for r in rounds])
    variances = rewards.var(axis=1, ddof=1)
    tasks = np.concatenate([r.prompts.task for r in rounds])
    parts = {
        f"reward_{name}": _mean([np.mean(r.terms[name]) for r in rounds])
        for name in rounds[0].terms
    }
    counts = {name: _mean([r.counters[name] for r in rounds]) for name in rounds[0].counters}
    by_task = {
        f"group_variance_{TASKS[task]}": _mean(variances[tasks == task])
        for task in np.unique(tasks)
    }
    return {
        **parts,
        **counts,
        **by_task,
        "reward": _mean(rewards),
        "reward_std": _mean(np.sqrt(variances)),
        "rollout_entropy": _mean([r.entropy for r in rounds]),
    }


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
        "groups_repeated": float(sum(int((~r.fresh & r.prompts.valid).sum()) for r in rounds)),
        "groups_surplus": float(informative - kept),
        "filtered_share": (fresh - informative) / max(fresh, 1),
        "resampled": float(len(rounds) - 1),
        "all_filtered": float(kept == 0),
    }


def _mean(values: Any) -> float:
    return float(np.mean(values))
