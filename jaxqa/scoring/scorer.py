"""From labelled or unlabelled images to rationale and score, in fixed blocks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from jaxqa import sharding
from jaxqa.data.batching import Buckets
from jaxqa.data.encoding import PromptEncoder
from jaxqa.data.loader import Loader, LoaderConfig, evaluation_loader
from jaxqa.data.prompts import PromptTemplate
from jaxqa.data.records import Example
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.rewards.parsing import parse_answer
from jaxqa.sampling.config import SamplingConfig
from jaxqa.sampling.keys import sample_keys
from jaxqa.sampling.sampler import Sampler
from jaxqa.typing import Params


@dataclass(frozen=True, kw_only=True)
class ScoredAnswer:
    """What the model said about one image.

    Attributes:
      example: the image.
      text: the whole completion; empty where the image could not be read.
      score: number in `<answer>`, whatever its range, or None.
      error: why there is no score, or None.
    """

    example: Example
    text: str
    score: float | None
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Asks a model about images, greedily.

    An image is computed in a block of `batch_size` rows of its own bucket, so its score depends
    on the image alone, not on its neighbours or their order.

    Attributes:
      model, encoder, template: what is asked, and how.
      mesh: devices that hold the parameters.
      buckets: static shapes of the prompts.
      max_new_tokens: longest answer.
      batch_size: rows of a block.
      num_workers: processes that decode images; 0 decodes in a thread.
    """

    model: Qwen2_5_VL
    encoder: PromptEncoder
    template: PromptTemplate
    mesh: Mesh
    buckets: Buckets
    max_new_tokens: int
    batch_size: int
    num_workers: int = 0

    def score(self, params: Params, examples: Sequence[Example]) -> Iterator[ScoredAnswer]:
        """Yield an answer per example, in blocks; buckets in turn, examples in order inside one."""
        by_id = {example.example_id: example for example in examples}
        loader = self._loader(examples)
        sampler = self._sampler()
        try:
            for batch in loader:
                prompts = sharding.shard_rows(batch.prompts, self.mesh)
                keys = sample_keys(0, "score", 0, batch.example_ids, 1)
                rollout = sampler(params, prompts, keys)
                ids, lengths = jax.device_get((rollout.token_ids, rollout.length))
                for row, error in enumerate(batch.errors):
                    if not batch.valid[row] and error is None:
                        continue  # padding of the last block
                    yield self._answer(
                        by_id[int(batch.example_ids[row])],
                        ids[row, 0, : lengths[row, 0]].tolist(),
                        error,
                    )
        finally:
            loader.close()

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
            examples,
            template=self.template,
            encoder=self.encoder,
            buckets=self.buckets,
            config=LoaderConfig(
                batch_size=self.batch_size, num_workers=self.num_workers, on_bad_image="mask"
            ),
        )

    def _answer(self, example: Example, ids: list[int], image_error: str | None) -> ScoredAnswer:
        if image_error is not None:
            return ScoredAnswer(example=example, text="", score=None, error=image_error)
        text = self.encoder.tokenizer.decode(ids)
        parsed = parse_answer(text)
        return ScoredAnswer(example=example, text=text, score=parsed.score, error=parsed.error)

    def _sampler(self) -> Sampler:
        tokenizer = self.encoder.tokenizer
        return Sampler(
            model=self.model,
            config=SamplingConfig(max_new_tokens=self.max_new_tokens, temperature=0.0),
            stop_token_ids=tokenizer.stop_token_ids,
            pad_token_id=tokenizer.pad_token_id,
        )
