"""From labelled or unlabelled images to rationale and score, in fixed blocks."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxqa import processes, sharding
from jaxqa.data.batching import Buckets
from jaxqa.data.encoding import PromptEncoder
from jaxqa.data.loader import Loader, LoaderConfig, evaluation_loader
from jaxqa.data.prompts import PromptTemplate
from jaxqa.data.records import Example
from jaxqa.data.source import Source
from jaxqa.models.qwen2_5_vl.inputs import Prompts
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.rewards.parsing import ParsedAnswer, ScoreRange, parse_answer
from jaxqa.sampling.keys import sample_keys
from jaxqa.sampling.sampler import Rollout, Sampler
from jaxqa.scoring.decoding import Decoding
from jaxqa.scoring.expected import NumberExpander, ScoreDistribution, cut_before_number
from jaxqa.scoring.tokens import AnswerTokens
from jaxqa.typing import Params

Tokens = Sequence[int]


@dataclass(frozen=True, kw_only=True)
class ScoredAnswer:
    """What the model said about one image.

    Attributes:
      example: the image.
      text: the (first) whole completion; empty where the image could not be read.
      score: the number that the decoding mode makes of the answers, whatever its range, or None.
      error: why there is no score, or None.
      parsed: the (first) completion, read; None where the image could not be read.
      log_prob: of the (first) completion's tokens, summed; None where the image could not be read.
      samples: each completion's number, or expected score; None where it has none.
      distribution: over scores, in expected mode.
    """

    example: Example
    text: str
    score: float | None
    error: str | None
    parsed: ParsedAnswer | None = None
    log_prob: float | None = None
    samples: tuple[float | None, ...] = ()
    distribution: ScoreDistribution | None = None

    @property
    def spread(self) -> float | None:
        """Standard deviation of the distribution, else of several samples, else None."""
        if self.distribution is not None:
            return self.distribution.spread
        known = [sample for sample in self.samples if sample is not None]
        return float(np.std(known)) if len(known) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the model wrote about one row of a block.

    Attributes:
      texts: the completions.
      log_prob: of the first completion's tokens, summed.
      distributions: over scores, after each completion's rationale; None outside of expected mode.
      tokens: of the first completion; None where they are not known.
    """

    texts: Sequence[str]
    log_prob: float
    distributions: Sequence[ScoreDistribution | None] | None
    tokens: AnswerTokens | None = None

    def to_json(self) -> dict[str, Any]:
        """What another process makes the same reply of."""
        parts = self.distributions
        return {
            "texts": list(self.texts),
            "log_prob": self.log_prob,
            "distributions": parts and [part and part.to_json() for part in parts],
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Reply":
        """The reply that `to_json` described."""
        parts = values["distributions"]
        found = parts and [part and ScoreDistribution.from_json(part) for part in parts]
        return cls(texts=values["texts"], log_prob=values["log_prob"], distributions=found)


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Asks a model about images.

    An image is computed in a block of `batch_size` rows of its own bucket, so its score depends
    on the image alone, not on its neighbours or their order.

    Attributes:
      model, encoder, template: what is asked, and how.
      mesh: devices that hold the parameters.
      buckets: static shapes of the prompts.
      max_new_tokens: longest answer.
      batch_size: rows of a block.
      num_workers: processes that decode images; 0 decodes in a thread.
      decoding: how a score is read from the model.
    """

    model: Qwen2_5_VL
    encoder: PromptEncoder
    template: PromptTemplate
    mesh: Mesh
    buckets: Buckets
    max_new_tokens: int
    batch_size: int
    num_workers: int = 0
    decoding: Decoding = Decoding()

    def score(self, params: Params, examples: Sequence[Example]) -> Iterator[ScoredAnswer]:
        """Yield an answer per example, in blocks; buckets in turn, examples in order inside one.

        Several processes share the rows of a block; each yields the answers of all.
        """
        by_id = {example.example_id: example for example in examples}
        loader, expander = self._loader(examples), self.expander()
        rows = sharding.row_share(self.mesh).rows(self.batch_size)
        try:
            for batch in loader:
                rollout = self.ask(params, batch.prompts, batch.example_ids)
                replies = self.replies(
                    params, batch.prompts, rollout, valid=batch.valid, expander=expander
                )
                mine = [
                    {
                        "id": int(batch.example_ids[row]),
                        "padding": not batch.valid[row] and error is None,
                        "error": error,
                        "reply": reply.to_json(),
                    }
                    for row, (reply, error) in enumerate(zip(replies, batch.errors, strict=True))
                ]
                for found in processes.exchange_rows(mine, rows):
                    if not found["padding"]:
                        yield _scored(by_id[found["id"]], found["error"], found["reply"])
        finally:
            loader.close()

    def ask(self, params: Params, prompts: Prompts, ids: np.ndarray) -> Rollout:
        """Start the completions of a block of prompts (NumPy); `ids` name the random draws.

        Both are those of this process's rows of the block.
        """
        rows = sharding.shard_rows(prompts, self.mesh)
        samples = self.decoding.samples
        keys = sample_keys(self.decoding.seed, "score", 0, ids, samples, mesh=self.mesh)
        return self._sampler()(params, rows, keys)

    def replies(
        self,
        params: Params,
        prompts: Prompts,
        rollout: Rollout,
        *,
        valid: Sequence[bool] | np.ndarray,
        expander: NumberExpander | None,
    ) -> list[Reply]:
        """What the model wrote about each row of a block; the rows that are not valid are moot."""
        ids, lengths, log_probs, entropies = sharding.local_rows(
            (rollout.token_ids, rollout.length, rollout.log_probs, rollout.entropies), self.mesh
        )
        written = [
            [tokens[:length].tolist() for tokens, length in zip(*row, strict=True)]
            for row in zip(ids, lengths, strict=True)
        ]
        found = self._distributions(params, prompts, written, valid, expander)
        decode = self.encoder.tokenizer.decode
        return [
            Reply(
                texts=[decode(tokens) for tokens in row],
                log_prob=float(log_prob),
                distributions=distributions if self.decoding.mode == "expected" else None,
                tokens=AnswerTokens(
                    ids=tuple(row[0]), entropies=tuple(unsure[: len(row[0])]), decode=decode
                ),
            )
            for row, log_prob, unsure, distributions in zip(
                written, log_probs[:, 0].sum(-1), entropies[:, 0].tolist(), found, strict=True
            )
        ]

    def check(self, examples: Sequence[Example]) -> None:
        """Find what `score` would refuse, before hours of training.

        Raises:
          UserError: no examples, no readable image, a prompt that fits no bucket, or a block that
            the devices cannot share evenly.
        """
        sharding.check_rows(self.batch_size, self.mesh, name="config.evaluation.batch_size")
        self._loader(examples).close()

    def _loader(self, examples: Sequence[Example]) -> Loader:
        return evaluation_loader(
            [Source(name="score", examples=examples, template=self.template)],
            encoder=self.encoder,
            buckets=self.buckets,
            config=LoaderConfig(
                batch_size=self.batch_size, num_workers=self.num_workers, on_bad_image="mask"
            ),
            share=sharding.row_share(self.mesh),
        )

    def _distributions(
        self,
        params: Params,
        prompts: Prompts,
        written: Sequence[Sequence[Tokens]],
        valid: Sequence[bool] | np.ndarray,
        expander: NumberExpander | None,
    ) -> list[list[ScoreDistribution | None]]:
        """Of each row's completions; empty outside of expected mode."""
        found: list[list[ScoreDistribution | None]] = [[] for _ in written]
        for sample in range(self.decoding.samples if expander else 0):
            cuts = [
                cut_before_number(row[sample], self.encoder.tokenizer) if usable else None
                for row, usable in zip(written, valid, strict=True)
            ]
            assert expander is not None
            expanded = expander.distributions(params, prompts, cuts, length=self.max_new_tokens)
            for row, distribution in zip(found, expanded, strict=True):
                row.append(distribution)
        return found

    def expander(self) -> NumberExpander | None:
        """What finds distributions over scores; None outside of expected mode."""
        low, high = self.template.low, self.template.high
        if self.decoding.mode != "expected" or low is None or high is None:
            return None
        return NumberExpander(
            model=self.model,
            tokenizer=self.encoder.tokenizer,
            score_range=(low, high),
            mesh=self.mesh,
        )

    def _sampler(self) -> Sampler:
        tokenizer = self.encoder.tokenizer
        return Sampler(
            model=self.model,
            config=self.decoding.sampling(self.max_new_tokens),
            stop_token_ids=tokenizer.stop_token_ids,
            pad_token_id=tokenizer.pad_token_id,
            mesh=self.mesh,
        )


def _scored(example: Example, error: str | None, values: dict[str, Any]) -> ScoredAnswer:
    if error is not None:
        return ScoredAnswer(example=example, text="", score=None, error=error)
    reply = Reply.from_json(values)
    answer = judge(example, reply.texts, reply.distributions)
    return dataclasses.replace(answer, log_prob=reply.log_prob)


def judge(
    example: Example,
    texts: Sequence[str],
    distributions: Sequence[ScoreDistribution | None] | None = None,
    *,
    score_range: ScoreRange | None = None,
) -> ScoredAnswer:
    """What the completions about one image come to; those without a number are left out.

    Args:
      distributions: after each completion's rationale, in expected mode.
      score_range: a number outside counts as none.
    """
    parsed = [parse_answer(text, score_range=score_range) for text in texts]
    samples: tuple[float | None, ...] = tuple(answer.score for answer in parsed)
    whole = None
    if distributions is not None:
        samples = tuple(d.mean if d else None for d in distributions)
        whole = _mixture([d for d in distributions if d])
    known = [sample for sample in samples if sample is not None]
    return ScoredAnswer(
        example=example,
        text=texts[0],
        score=math.fsum(known) / len(known) if known else None,
        error=None if known else _reason(parsed),
        parsed=parsed[0],
        samples=samples if len(samples) > 1 else (),
        distribution=whole,
    )


def _reason(parsed: Sequence[ParsedAnswer]) -> str:
    """Why none of the completions gave a score."""
    errors = [answer.error for answer in parsed if answer.error]
    if errors:
        return errors[0]
    return "no admissible number has any probability after the rationale"


def _mixture(parts: Sequence[ScoreDistribution]) -> ScoreDistribution | None:
    """The distribution after one of several rationales, each as likely."""
    if not parts:
        return None
    mean: Any = np.mean([part.probabilities for part in parts], axis=0)
    mass = float(np.mean([part.mass for part in parts]))
    return ScoreDistribution(values=parts[0].values, probabilities=mean, mass=mass)
