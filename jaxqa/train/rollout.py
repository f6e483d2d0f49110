"""Rollouts as a batch source: prompts -> answers -> rewards -> advantages -> `GrpoBatch`."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxqa import sharding
from jaxqa.data.batching import PromptBatch
from jaxqa.data.loader import Loader
from jaxqa.data.tokenizer import Tokenizer
from jaxqa.objectives import grpo
from jaxqa.objectives.advantages import AdvantageConfig, group_advantages
from jaxqa.rewards import parsing
from jaxqa.rewards.answers import Answers, Targets
from jaxqa.rewards.registry import RewardTerm, combine
from jaxqa.sampling.keys import sample_keys
from jaxqa.sampling.sampler import Rollout, Sampler
from jaxqa.train.batches import GrpoBatch
from jaxqa.typing import Array, Float, Params


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """What turns prompts into a `GrpoBatch`.

    Attributes:
      seed, stage: name the samples' random keys, with the step and the example.
      terms: rewards and their weights, under the names of their metrics.
      advantages: how rewards become advantages.
      objective: the policy loss, for its normaliser and whether it needs a reference.
      completion_lengths: buckets to which the sampled completions are cut.
    """

    seed: int
    stage: str
    terms: tuple[tuple[str, RewardTerm], ...]
    advantages: AdvantageConfig
    objective: grpo.GrpoConfig
    completion_lengths: tuple[int, ...]


class RolloutSource:
    """Samples G answers to each prompt with the current policy and rewards them."""

    def __init__(
        self,
        config: RolloutConfig,
        *,
        prompter: Loader,
        sampler: Sampler,
        tokenizer: Tokenizer,
        mesh: Mesh,
        reference: Callable[[Any, Array], Array] | None,
        write: Callable[[int, list[dict[str, Any]]], None],
    ):
        """Make a source.

        Args:
          reference: `(prompts, completion_ids) -> log-probabilities [B G T]` of the frozen
            reference policy, or None without a KL penalty.
          write: receives the step (from 1) and the rollout's records.
        """
        self.config = config
        self.get_state, self.set_state = prompter.get_state, prompter.set_state
        self.close = prompter.close
        self._prompter = prompter
        self._sampler = sampler
        self._tokenizer = tokenizer
        self._mesh = mesh
        self._reference = reference
        self._write = write

    def next(self, params: Params, step: int) -> tuple[GrpoBatch, dict[str, float]]:
        """The rollout of training step `step` (from 0) and its metrics."""
        config, host = self.config, next(self._prompter)
        prompts = sharding.shard_rows(host.prompts, self._mesh)
        keys = sample_keys(
            config.seed, config.stage, step, host.example_ids, self._sampler.config.num_samples
        )
        rollout = self._cut(self._sampler(params, prompts, keys))
        texts = decode_groups(self._tokenizer, rollout)
        answers = parsing.parse_answers(texts)
        rewards, *logged = self._rewards(answers, host)
        batch = GrpoBatch(
            prompts=prompts,
            completion_ids=rollout.token_ids,
            completion_mask=rollout.mask,
            sampler_log_probs=rollout.log_probs,
            advantages=group_advantages(rewards, config.advantages),
            normalizer=grpo.loss_normalizer(
                rollout.mask,
                config.objective,
                max_length=self._sampler.config.max_new_tokens,
            ),
            ref_log_probs=self._reference and self._reference(prompts, rollout.token_ids),
        )
        host_rewards, host_terms, counters = jax.device_get((rewards, *logged))
        self._write(step + 1, _records(host, texts, answers, host_rewards))
        return batch, _metrics(host_rewards, host_terms, counters)

    def _rewards(
        self, answers: Answers, host: PromptBatch
    ) -> tuple[Float[Array, "N G"], dict[str, jax.Array], dict[str, jax.Array]]:
        """Rewards over the whole rollout batch: pairs may span every device."""
        targets = Targets(
            score=host.labels,
            pool=host.pools,
            task=host.task,
            class_id=host.class_id,
            severity_id=host.severity_id,
            choice_id=host.choice_id,
        )
        placed = sharding.shard_rows((answers, targets), self._mesh)
        return combine(self.config.terms, *placed)

    def _cut(self, rollout: Rollout) -> Rollout:
        """Drop the columns that no completion reached, down to a bucket."""
        steps = int(jax.device_get(rollout.num_steps))
        length = min(n for n in self.config.completion_lengths if n >= steps)
        fields = ("token_ids", "mask", "log_probs", "entropies")
        cut = {name: getattr(rollout, name)[:, :, :length] for name in fields}
        return dataclasses.replace(rollout, **cut)


def decode_groups(tokenizer: Tokenizer, rollout: Rollout) -> list[list[str]]:
    """Texts of [B G] completions, special tokens left out."""
    ids, lengths = jax.device_get((rollout.token_ids, rollout.length))
    return [
        [tokenizer.decode(row[:length].tolist()) for row, length in zip(group, sizes, strict=True)]
        for group, sizes in zip(ids, lengths, strict=True)
    ]


def _records(
    host: PromptBatch, texts: Sequence[Sequence[str]], answers: Answers, rewards: np.ndarray
) -> list[dict[str, Any]]:
    def of_group(row: int) -> Iterator[dict[str, Any]]:
        for index, text in enumerate(texts[row]):
            yield {
                "example_id": int(host.example_ids[row]),
                "completion": index,
                "text": text,
                "score": float(answers.score[row, index]) if answers.valid[row, index] else None,
                "reward": float(rewards[row, index]),
                "label": None if np.isnan(host.labels[row]) else float(host.labels[row]),
            }

    return [record for row in range(len(texts)) for record in of_group(row)]


def _metrics(
    rewards: np.ndarray, terms: Mapping[str, np.ndarray], counters: Mapping[str, np.ndarray]
) -> dict[str, float]:
    parts = {f"reward_{name}": float(np.mean(values)) for name, values in terms.items()}
    spread = rewards.std(axis=1, ddof=1)
    counts = {name: float(value) for name, value in counters.items()}
    return (
        parts | counts | {"reward": float(np.mean(rewards)), "reward_std": float(np.mean(spread))}
    )
