"""A reasoning model as something that can be asked about images."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np
from jax.sharding import Mesh

from jaxqa.data.encoding import PromptEncoder
from jaxqa.data.prompts import TEMPLATES, PromptTemplate
from jaxqa.data.records import Example
from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl.inputs import PromptRow, Prompts, stack_rows
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.sampling.sampler import Rollout
from jaxqa.scoring import loading
from jaxqa.scoring.compare import Choice, failed_choice, read_choice
from jaxqa.scoring.decoding import Decoding
from jaxqa.scoring.expected import NumberExpander
from jaxqa.scoring.manifest import Manifest
from jaxqa.scoring.question import Question
from jaxqa.scoring.results import Score, rationale_of
from jaxqa.scoring.scorer import Reply, Scorer, judge
from jaxqa.typing import Params

T = TypeVar("T")

_NOBODY = Example(example_id=0, image=b"", score=None, dataset="", task="")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedRow:
    """One question, laid out.

    Attributes:
      row: tokens and patches.
      bucket: number of its compiled shape.
      key: 63-bit number that the random draws derive from: a digest of what the model is shown.
    """

    row: PromptRow
    bucket: int
    key: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReasoningAsker(Generic[T]):
    """Asks one prompt in one decoding mode; see `blocks.Asker`.

    Attributes:
      scorer: model, prompt and decoding mode; its `batch_size` rows make a block.
      params: of the model.
      read: what a reply comes to.
      failed: what a row comes to that could not be prepared.
    """

    scorer: Scorer
    params: Params
    read: Callable[[Reply], T]
    failed: Callable[[str], T]

    @property
    def rows(self) -> int:
        """Rows of every block."""
        return self.scorer.batch_size

    def prepare(self, pictures: Sequence[np.ndarray], prompt: str | None) -> PreparedRow:
        """Lay out one question.

        Raises:
          UserError: a picture cannot be resized, or the question fits no bucket.
        """
        scorer, template = self.scorer, self.scorer.template
        example = dataclasses.replace(_NOBODY, prompt=prompt)
        row = scorer.encoder.row(template.messages(example), pictures)
        digest = hashlib.blake2b(row.patches.tobytes(), digest_size=8)
        digest.update(row.token_ids.tobytes())
        return PreparedRow(
            row=row,
            bucket=scorer.buckets.index(row.length, row.num_windows),
            key=int.from_bytes(digest.digest(), "big") >> 1,
        )

    def dispatch(self, rows: Sequence[PreparedRow]) -> tuple[int, Prompts, Rollout]:
        """Start a block; missing rows are copies of the first."""
        buckets, bucket = self.scorer.buckets, rows[0].bucket
        filled = [*rows, *[rows[0]] * (self.rows - len(rows))]
        prompts = stack_rows(
            [row.row for row in filled],
            prompt_length=buckets.prompt_lengths[bucket],
            num_windows=buckets.window_counts[bucket],
            pad_token_id=self.scorer.encoder.tokenizer.pad_token_id,
        )
        ids = np.array([row.key for row in filled], np.int64)
        return len(rows), prompts, self.scorer.ask(self.params, prompts, ids)

    def collect(self, running: tuple[int, Prompts, Rollout]) -> list[T]:
        """Read a block's replies."""
        count, prompts, rollout = running
        replies = self.scorer.replies(
            self.params,
            prompts,
            rollout,
            valid=np.arange(self.rows) < count,
            expander=self._expander,
        )
        return [self.read(reply) for reply in replies[:count]]

    def shapes(self, row: PreparedRow) -> list[PreparedRow]:
        """The row in its own bucket and in each larger one; see `blocks.Rehearsing`."""
        count = len(self.scorer.buckets.prompt_lengths)
        return [dataclasses.replace(row, bucket=bucket) for bucket in range(row.bucket, count)]

    def rehearse(self, running: tuple[int, Prompts, Rollout]) -> None:
        """Expand the numbers as after an answer with one, whatever the model has answered."""
        _, prompts, _ = running
        if self._expander is not None:
            self._expander.rehearse(self.params, prompts, length=self.scorer.max_new_tokens)

    @functools.cached_property
    def _expander(self) -> NumberExpander | None:
        return self.scorer.expander()


class ReasoningModel:
    """A Qwen2.5-VL model with the prompts that it is asked."""

    def __init__(
        self,
        model: Qwen2_5_VL,
        encoder: PromptEncoder,
        params: Params,
        *,
        mesh: Mesh,
        manifest: Manifest,
        rows: int,
    ):
        """Take the parts of a model, what it is asked, and the rows of a block."""
        self._model, self._encoder, self._params = model, encoder, params
        self._mesh, self._rows = mesh, rows
        self.manifest = manifest

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that give a score."""
        templates = self.manifest.templates
        return tuple(task for task, template in templates.items() if template.low is not None)

    def score_range(self, task: str) -> tuple[float, float]:
        """Lowest and highest score of a task.

        Raises:
          UserError: the model does not score it.
        """
        template = self._template(task)
        assert template.low is not None and template.high is not None
        return template.low, template.high

    def asker(self, question: Question) -> ReasoningAsker[Score]:
        """Who asks for scores.

        Raises:
          UserError: the model does not score the task, or not in that mode.
        """
        limits = self.score_range(question.task)
        return self._asker(
            self._prompt(question),
            question.decoding,
            read=functools.partial(read_score, score_range=limits),
            failed=functools.partial(failed_score, score_range=limits),
        )

    def default_mode(self, task: str) -> str:
        """How the task's own prompt is asked.

        Raises:
          UserError: the model does not score the task.
        """
        return "think" if self._template(task).think else "fast"

    def chooser(self, decoding: Decoding) -> ReasoningAsker[Choice] | None:
        """Who asks which of two images is better, given a third; None if the model cannot say."""
        template = self.manifest.templates.get("comparison")
        if template is None:
            return None
        return self._asker(template, decoding, read=read_choice, failed=failed_choice)

    def _template(self, task: str) -> PromptTemplate:
        if task not in self.tasks:
            raise UserError(
                f"task {task!r}: this model scores {', '.join(self.tasks) or 'nothing'}; choose "
                "another task, or name a prompt for it"
            )
        return self.manifest.templates[task]

    def _prompt(self, question: Question) -> PromptTemplate:
        template = self._template(question.task)
        if question.mode == "fast" and template.think:
            return answer_only(template)
        if question.mode == "think" and not template.think:
            raise UserError(
                f"mode 'think': prompt {template.name!r} of this model asks for the answer alone; "
                "use mode 'fast'"
            )
        return template

    def _asker(
        self,
        template: PromptTemplate,
        decoding: Decoding,
        *,
        read: Callable[[Reply], T],
        failed: Callable[[str], T],
    ) -> ReasoningAsker[T]:
        length = self.manifest.max_new_tokens
        buckets = loading.standard_buckets(self._encoder, template, max_new_tokens=length)
        scorer = Scorer(
            model=self._model,
            encoder=self._encoder,
            template=template,
            mesh=self._mesh,
            buckets=buckets,
            max_new_tokens=length,
            batch_size=self._rows,
            decoding=decoding,
        )
        return ReasoningAsker(scorer=scorer, params=self._params, read=read, failed=failed)


def answer_only(template: PromptTemplate) -> PromptTemplate:
    """The prompt that asks the same without reasons.

    Raises:
      UserError: there is none.
    """
    name = f"{template.name}_answer_only"
    if name not in TEMPLATES:
        raise UserError(
            f"mode 'fast': prompt {template.name!r} has no answer-only form; use another mode, or "
            "name a prompt that has one"
        )
    return dataclasses.replace(TEMPLATES[name], low=template.low, high=template.high)


def read_score(reply: Reply, *, score_range: tuple[float, float]) -> Score:
    """The score in a reply; numbers outside of the range are no scores."""
    found = judge(_NOBODY, reply.texts, reply.distributions, score_range=score_range)
    return Score(
        score=found.score,
        error=found.error,
        score_range=score_range,
        rationale=rationale_of(found.text),
        text=found.text,
        distribution=found.distribution,
        samples=found.samples,
        tokens=reply.tokens,
    )


def failed_score(error: str, *, score_range: tuple[float, float]) -> Score:
    """No score, because the image could not be used."""
    return Score(score=None, error=error, score_range=score_range)


def with_prompts(manifest: Manifest, prompts: Mapping[str, PromptTemplate]) -> Manifest:
    """The manifest with some of its prompts replaced."""
    return dataclasses.replace(manifest, templates={**manifest.templates, **prompts})
