"""Rollouts as a batch source: prompts -> answers -> rewards -> advantages -> filter -> batch."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxqa import sharding
from jaxqa.data.batching import PromptBatch
from jaxqa.data.loader import Loader
from jaxqa.data.tokenizer import Tokenizer
from jaxqa.metrics import states
from jaxqa.objectives import grpo
from jaxqa.objectives.advantages import (
    AdvantageConfig,
    FilterConfig,
    group_advantages,
    informative_groups,
)
from jaxqa.objectives.entropy_gate import GateConfig, entropy_threshold
from jaxqa.rewards import parsing
from jaxqa.rewards.answers import Answers, Targets
from jaxqa.rewards.labels import ABSENT
from jaxqa.rewards.registry import RewardTerm, combine
from jaxqa.sampling.keys import sample_keys
from jaxqa.sampling.sampler import Rollout, Sampler
from jaxqa.train.batches import GrpoBatch
from jaxqa.train.groups import Groups, refill, to_front
from jaxqa.train.rounds import Round, filter_metrics, gather_facts, reward_metrics
from jaxqa.typing import Array, Bool, Float, Params

_Tokens = tuple[Array, Array]
"""Entropies [B G T] and which of them count, bool [B G T]."""


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """What turns prompts into a `GrpoBatch`.

    Attributes:
      seed, stage: name the samples' random keys, with the step and the example.
      terms: rewards and their weights, under the names of their metrics.
      advantages: how rewards become advantages.
      objective: the policy loss, for its normaliser.
      filter: which groups are trained on, and how often more are sampled.
      gate: which tokens have a policy gradient.
      micro_batches: slices of the batch.
      completion_lengths: buckets to which the sampled completions are cut.
    """

    seed: int
    stage: str
    terms: tuple[tuple[str, RewardTerm], ...]
    advantages: AdvantageConfig
    objective: grpo.GrpoConfig
    filter: FilterConfig
    gate: GateConfig
    micro_batches: int
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
        reference: Callable[[Params, Any, Array, Array | None], Array] | None,
        write: Callable[[int, list[dict[str, Any]]], None],
        copy: Callable[[Params], Params] = lambda params: params,
    ):
        """Make a source.

        Args:
          reference: `(policy, prompts, completion_ids, micro-batches in use, None for all) ->
            log-probabilities [B G T]` of the frozen reference policy, or None without a KL penalty;
            `policy` is the current one.
          write: receives the step (from 1) and the rollout's records.
          copy: the policy as the sampler reads it, made once per rollout and let go after it;
            decoding reads every weight at every token.
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
        self._copy = copy

    def next(self, params: Params, step: int) -> tuple[GrpoBatch, dict[str, float]]:
        """The rollout of training step `step` (from 0) and its metrics.

        Further prompts are sampled while kept groups do not fill the batch and rounds are left.
        """
        policy, params = params, self._copy(params)
        groups, first = self._round(params, step, [])
        rounds, kept, sampled = [first], first.kept, [self._tokens(groups, first)]
        while not kept.all() and len(rounds) <= self.config.filter.resample_rounds:
            more, latest = self._round(params, step, rounds)
            sampled.append(self._tokens(more, latest))
            groups, kept = refill(groups, kept, more, latest.kept, mesh=self._mesh)
            rounds.append(latest)
        self._write(step + 1, [record for one in rounds for record in one.records()])
        metrics = reward_metrics(rounds)
        if self.config.filter.tau is not None:
            metrics |= filter_metrics(rounds, int(kept.sum()))
        del params  # the copy: the reference may need its room
        return self._batch(policy, groups, kept, sampled), metrics

    def _round(self, params: Params, step: int, earlier: list[Round]) -> tuple[Groups, Round]:
        """Prompts, their answers, rewards and advantages, and which groups pass the filter."""
        host = self._prompter.take(params)
        prompts = sharding.shard_rows(host.prompts, self._mesh)
        rollout = self._sample(params, prompts, host, step)
        texts = decode_groups(self._tokenizer, rollout, self._mesh)
        answers = parsing.parse_answers(texts)
        rewards, terms, counters = self._rewards(answers, host)
        advantages, verdicts = _judge(
            rewards, rollout.entropies, rollout.mask, self.config.advantages, self.config.filter
        )
        groups = Groups(
            prompts=prompts,
            completion_ids=rollout.token_ids,
            completion_mask=rollout.mask,
            log_probs=rollout.log_probs,
            entropies=rollout.entropies,
            advantages=advantages,
        )
        on_device = {"rewards": rewards, "terms": terms, "counters": counters, **verdicts}
        share = sharding.row_share(self._mesh)
        rows = share.rows(len(texts) * share.count // len(share.parts))
        facts = gather_facts(host, texts, answers, rows)
        seen = [one.facts.example_ids for one in earlier]
        # The same example in the same step has the same keys, and so the same answers.
        repeated = np.isin(facts.example_ids, np.concatenate([np.zeros(0, np.int64), *seen]))
        found = sharding.fetch(on_device, self._mesh)
        return groups, Round(facts=facts, fresh=facts.valid & ~repeated, **found)

    def _tokens(self, groups: Groups, found: Round) -> _Tokens:
        """Sampled entropies of a round, and which of them count: those of fresh rows."""
        fresh = sharding.replicate(found.fresh, self._mesh)
        return groups.entropies, _of_rows(groups.completion_mask, fresh)

    def _batch(
        self,
        policy: Params,
        groups: Groups,
        kept: Bool[np.ndarray, "B"],
        sampled: Sequence[_Tokens],
    ) -> GrpoBatch:
        """What is defined over the whole batch: normaliser, gate, and what a micro-batch holds."""
        config, used = self.config, None
        if not kept.all():
            groups = to_front(groups, kept, micro_batches=config.micro_batches, mesh=self._mesh)
        if config.filter.tau is not None:
            count = np.int32(-(-kept.sum() * config.micro_batches // len(kept)))
            used = sharding.replicate(count, self._mesh)
        gate = None
        if config.gate.source == "sampler":
            left = (groups.entropies, groups.completion_mask)
            among = (left,) if config.gate.among == "kept" else tuple(sampled)
            gate = _gate(*left, among, rho=config.gate.rho)
        rows = groups.prompts, groups.completion_ids
        return grpo_batch(
            groups,
            used=used,
            reference=self._reference and self._reference(policy, *rows, used),
            gate=gate,
            objective=config.objective,
            max_length=self._sampler.config.max_new_tokens,
        )

    def _sample(self, params: Params, prompts: Any, host: PromptBatch, step: int) -> Rollout:
        config, num_samples = self.config, self._sampler.config.num_samples
        names = config.seed, config.stage, step, host.example_ids, num_samples
        keys = sample_keys(*names, mesh=self._mesh)
        return self._cut(self._sampler(params, prompts, keys))

    def _rewards(
        self, answers: Answers, host: PromptBatch
    ) -> tuple[Float[Array, "N G"], dict[str, jax.Array], dict[str, jax.Array]]:
        """Rewards over the whole rollout batch: pairs may span every device.

        Rows without a readable image have no label, so that nothing is ranked against them.
        """
        targets = Targets(
            score=np.where(host.valid, host.labels, np.float32(np.nan)),
            pool=host.pools,
            task=host.task,
            class_id=np.where(host.valid, host.class_id, ABSENT),
            severity_id=np.where(host.valid, host.severity_id, ABSENT),
            choice_id=np.where(host.valid, host.choice_id, ABSENT),
        )
        placed = sharding.shard_rows((answers, targets), self._mesh)
        return combine(self.config.terms, *placed)

    def _cut(self, rollout: Rollout) -> Rollout:
        """Drop the columns that no completion reached, down to a bucket."""
        steps = int(jax.device_get(rollout.num_steps))
        length = min(n for n in self.config.completion_lengths if n >= steps)
        return _first_tokens(rollout, length)


def grpo_batch(
    groups: Groups,
    *,
    used: Array | None,
    reference: Array | None,
    gate: Array | None,
    objective: grpo.GrpoConfig,
    max_length: int,
) -> GrpoBatch:
    """The batch that groups become.

    Args:
      used: micro-batches that hold a group; None for all.
      reference: log-probabilities [B G T] of the reference policy, or None.
      gate: bool [B G T], tokens that have a policy gradient, or None: all, or the loss decides.
      objective: the policy loss, for its normaliser.
      max_length: of a completion that could have been sampled.
    """
    mask = groups.completion_mask
    return GrpoBatch(
        prompts=groups.prompts,
        completion_ids=groups.completion_ids,
        completion_mask=mask,
        sampler_log_probs=groups.log_probs,
        advantages=groups.advantages,
        normalizer=_normalizer(mask, objective, max_length=max_length),
        gate=gate,
        micro_batches=used,
        ref_log_probs=reference,
    )


def decode_groups(tokenizer: Tokenizer, rollout: Rollout, mesh: Mesh) -> list[list[str]]:
    """Texts of this process's rows of [B G] completions, special tokens left out."""
    ids, lengths = sharding.local_rows((rollout.token_ids, rollout.length), mesh)
    return [
        [tokenizer.decode(row[:length].tolist()) for row, length in zip(group, sizes, strict=True)]
        for group, sizes in zip(ids, lengths, strict=True)
    ]


@functools.partial(jax.jit, static_argnames="rho")
def _gate(
    entropies: Float[Array, "B G T"],
    mask: Bool[Array, "B G T"],
    among: tuple[_Tokens, ...],
    *,
    rho: float,
) -> Bool[Array, "B G T"]:
    """Where an entropy reaches the quantile of those in `among`."""
    return mask & (entropies >= entropy_threshold(among, rho=rho))


@functools.partial(jax.jit, static_argnames="length")
def _first_tokens(rollout: Rollout, length: int) -> Rollout:
    fields = ("token_ids", "mask", "log_probs", "entropies")
    cut = {name: getattr(rollout, name)[:, :, :length] for name in fields}
    return dataclasses.replace(rollout, **cut)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _judge(
    rewards: Float[Array, "N G"],
    entropies: Float[Array, "N G T"],
    mask: Bool[Array, "N G T"],
    advantages: AdvantageConfig,
    kept: FilterConfig,
) -> tuple[Float[Array, "N G"], dict[str, Array]]:
    """Advantages, and what the diary wants to know of them."""
    verdicts = {
        "entropy": states.masked_mean(entropies, mask).compute(),
        "informative": informative_groups(rewards, kept),
    }
    return group_advantages(rewards, advantages), verdicts


@jax.jit
def _of_rows(mask: Bool[Array, "B G T"], rows: Bool[Array, "B"]) -> Bool[Array, "B G T"]:
    return mask & rows[:, None, None]


_normalizer = jax.jit(grpo.loss_normalizer, static_argnums=1, static_argnames="max_length")
