"""The policy itself as an expert, through jaxqa's sampler."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from jaxqa import sharding
from jaxqa.data import images as images_lib
from jaxqa.data.batching import Buckets
from jaxqa.data.encoding import PromptEncoder
from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl.inputs import PromptRow, stack_rows
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.reasoning.expert import CUT_OFF, EMPTY, REFUSED, Check, Reply, Request, Sample
from jaxqa.sampling.config import SamplingConfig
from jaxqa.sampling.keys import sample_keys
from jaxqa.sampling.sampler import Sampler
from jaxqa.typing import Params

_Group = tuple[SamplingConfig, int, int]
"""What one compiled call has in common: sampling, bucket, turn."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyExpert:
    """Asks the policy, in blocks of `batch_size` rows of one bucket.

    A text depends on its request, the seed, the stage's name, the example and the turn alone: not
    on its neighbours, so a run that goes on after a kill writes what it would have written.

    Attributes:
      model, params, encoder: who is asked, and how text and images become tokens and patches.
      mesh: devices that hold the parameters.
      buckets: static shapes of the prompts.
      batch_size: rows of a block.
      seed, stage: random streams derive from them.
    """

    model: Qwen2_5_VL
    params: Params
    encoder: PromptEncoder
    mesh: Mesh
    buckets: Buckets
    batch_size: int
    seed: int
    stage: str
    calls: Counter[str] = dataclasses.field(default_factory=Counter)

    def ask(self, requests: Sequence[Request], check: Check) -> list[Reply]:
        """See `Expert`. Prompts that fit no bucket and unreadable images are errors of theirs."""
        replies: list[Reply] = [()] * len(requests)
        groups: dict[_Group, list[tuple[int, PromptRow]]] = defaultdict(list)
        for number, request in enumerate(requests):
            try:
                row, bucket = self._row(request)
            except UserError as error:
                problem = Sample(problem=REFUSED, detail=str(error))
                replies[number] = (problem,) * request.sampling.num_samples
                continue
            groups[request.sampling, bucket, request.turn].append((number, row))
        for (sampling, bucket, turn), members in groups.items():
            for start in range(0, len(members), self.batch_size):
                check()
                block = members[start : start + self.batch_size]
                ids = [requests[number].example_id for number, _ in block]
                rows = [row for _, row in block]
                texts = self._sample(rows, ids, sampling=sampling, bucket=bucket, turn=turn)
                for (number, _), reply in zip(block, texts, strict=True):
                    replies[number] = reply
        return replies

    def close(self) -> None:
        """See `Expert`."""

    def _row(self, request: Request) -> tuple[PromptRow, int]:
        pixels = [images_lib.decode(image, name=_name(image)) for image in request.images]
        row = self.encoder.row(request.messages, pixels)
        return row, self.buckets.index(row.length, row.num_windows)

    def _sample(
        self,
        rows: list[PromptRow],
        example_ids: list[int],
        *,
        sampling: SamplingConfig,
        bucket: int,
        turn: int,
    ) -> list[Reply]:
        """Replies to one block, padded with copies of its first row."""
        size, tokenizer = len(rows), self.encoder.tokenizer
        missing = self.batch_size - size
        prompts = stack_rows(
            rows + rows[:1] * missing,
            prompt_length=self.buckets.prompt_lengths[bucket],
            num_windows=self.buckets.window_counts[bucket],
            pad_token_id=tokenizer.pad_token_id,
        )
        ids = np.array(example_ids + example_ids[:1] * missing, np.int64)
        sampler = Sampler(
            model=self.model,
            config=sampling,
            stop_token_ids=tokenizer.stop_token_ids,
            pad_token_id=tokenizer.pad_token_id,
            mesh=self.mesh,
        )
        # Every process has laid out the whole block; it hands over its rows and reads all texts.
        mine = sharding.row_share(self.mesh).rows(self.batch_size)
        placed = sharding.shard_rows(jax.tree.map(lambda leaf: leaf[mine], prompts), self.mesh)
        keys = sample_keys(
            self.seed, self.stage, turn, ids[mine], sampling.num_samples, mesh=self.mesh
        )
        rollout = sampler(self.params, placed, keys)
        tokens, lengths = sharding.fetch((rollout.token_ids, rollout.length), self.mesh)
        self.calls["sampled"] += size * sampling.num_samples
        return [
            tuple(
                self._read(tokens[row, number, : lengths[row, number]].tolist())
                for number in range(sampling.num_samples)
            )
            for row in range(size)
        ]

    def _read(self, ids: list[int]) -> Sample:
        tokenizer = self.encoder.tokenizer
        text = tokenizer.decode(ids)
        if not ids or ids[-1] not in tokenizer.stop_token_ids:
            return Sample(text=text, problem=CUT_OFF, detail=text[-200:])
        return Sample(text=text, problem=None if text.strip() else EMPTY)


def _name(image: object) -> str:
    return "the image" if isinstance(image, bytes) else str(image)
