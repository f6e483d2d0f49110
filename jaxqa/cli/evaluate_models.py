"""The models that `evaluate` can ask: a directory on this machine, or an endpoint."""

import argparse
import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxqa import sharding
from jaxqa.data.prompts import PromptTemplate
from jaxqa.data.records import Example
from jaxqa.distill.artifact import is_artifact, load_artifact
from jaxqa.errors import UserError
from jaxqa.evaluation.answering import Ask
from jaxqa.evaluation.selection import Selection
from jaxqa.files import weights_digest
from jaxqa.models.qwen2_5_vl import hf_config
from jaxqa.reasoning.endpoint import EndpointExpert
from jaxqa.reasoning.expert import EXPERT_FAILED, ExpertConfig, Request
from jaxqa.scoring import loading
from jaxqa.scoring.decoding import Decoding
from jaxqa.scoring.manifest import Manifest, read_manifest
from jaxqa.scoring.scorer import ScoredAnswer, Scorer, judge
from jaxqa.serving.loading import LoadOptions
from jaxqa.serving.loading import load as load_scorer

ENDPOINT = "openai:"
_REQUESTS_AT_ONCE = 4

Check = Callable[[], None]
"""Raises when the evaluation is to stop."""


@dataclasses.dataclass(frozen=True)
class LocalModel:
    """A model directory, Hugging Face or jaxqa."""

    directory: Path
    decoding: Decoding
    flags: argparse.Namespace

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest answer: the flag's, or those that the model was trained for."""
        return self.flags.max_new_tokens or read_manifest(self.directory).max_new_tokens

    def identity(self) -> dict[str, Any]:
        """Digest of its weights, from samples of each file."""
        hf_config.read_config(self.directory)  # refuses what is not a model of ours
        hf_config.read_image_config(self.directory)
        return {"weights": weights_digest(self.directory)}

    def asked_as(self, selection: Selection) -> Selection:
        """The selection with the prompt that the model was trained on, unless a flag says else."""
        if self.flags.prompt:
            return selection
        task = selection.info.task
        template = read_manifest(self.directory).templates.get(task, selection.template)
        if template.low is None:
            raise UserError(f"{self.directory} gives no score for {task}: choose one by --prompt")
        return dataclasses.replace(selection, template=template)

    @contextlib.contextmanager
    def asking(self, check: Check) -> Iterator[Callable[[PromptTemplate], Ask]]:
        """Load the weights; each template has a scorer of its own."""
        flags = self.flags
        sizes = sharding.MeshConfig(data=-1, fsdp=flags.fsdp, tensor=flags.tensor)
        mesh = sharding.make_mesh(sizes)
        sharding.check_rows(flags.batch_size, mesh, name="--batch_size")
        model, encoder, params = loading.load_model(
            self.directory, mesh=mesh, max_pixels=flags.max_pixels
        )

        def ask_with(template: PromptTemplate) -> Ask:
            scorer = Scorer(
                model=model,
                encoder=encoder,
                template=template,
                mesh=mesh,
                buckets=loading.standard_buckets(
                    encoder, template, max_new_tokens=self.longest_answer
                ),
                max_new_tokens=self.longest_answer,
                batch_size=flags.batch_size,
                num_workers=flags.workers,
                decoding=self.decoding,
            )

            def ask(examples: Sequence[Example]) -> Iterator[ScoredAnswer]:
                for answer in scorer.score(params, examples):
                    check()
                    yield answer

            return ask

        yield ask_with


@dataclasses.dataclass(frozen=True)
class DistilledModel:
    """A RALI artifact: a score for an image, no prompt and no answer."""

    directory: Path
    flags: argparse.Namespace

    @property
    def longest_answer(self) -> int:
        """Nothing is written."""
        return 0

    def identity(self) -> dict[str, Any]:
        """Digest of its weights, from samples of each file."""
        return {"weights": weights_digest(self.directory)}

    def asked_as(self, selection: Selection) -> Selection:
        """The selection with the range of the scorer, which is asked nothing."""
        mapping = load_artifact(self.directory).basis.mapping
        template = dataclasses.replace(
            selection.template,
            name="no prompt",
            system=None,
            question="",
            low=mapping.low,
            high=mapping.high,
        )
        return dataclasses.replace(selection, template=template)

    @contextlib.contextmanager
    def asking(self, check: Check) -> Iterator[Callable[[PromptTemplate], Ask]]:
        """Load the artifact."""
        options = LoadOptions(block_rows=self.flags.batch_size)
        scorer = load_scorer(self.directory, options=options, workers=self.flags.workers or 1)

        def ask(examples: Sequence[Example]) -> Iterator[ScoredAnswer]:
            images = [example.image for example in examples]
            for number, found in scorer.stream(images):
                check()
                yield ScoredAnswer(
                    example=examples[number], text="", score=found.score, error=found.error
                )

        yield lambda template: ask


@dataclasses.dataclass(frozen=True)
class EndpointModel:
    """An OpenAI-compatible endpoint; what it fails to answer stays unanswered."""

    config: ExpertConfig
    decoding: Decoding
    flags: argparse.Namespace
    cache: Path

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest answer."""
        return self.flags.max_new_tokens or Manifest.max_new_tokens

    def identity(self) -> dict[str, Any]:
        """URL and name: nothing else is known of it."""
        return {"endpoint": self.config.endpoint, "name": self.config.model}

    def asked_as(self, selection: Selection) -> Selection:
        """The selection itself."""
        return selection

    @contextlib.contextmanager
    def asking(self, check: Check) -> Iterator[Callable[[PromptTemplate], Ask]]:
        """Open the file of raw answers; requests are sent some at a time."""
        expert = EndpointExpert(
            self.config, self.cache, api_key=os.environ.get(self.flags.api_key_env) or None
        )
        try:
            yield lambda template: lambda examples: self._ask(expert, template, examples, check)
        finally:
            expert.close()

    def _ask(
        self,
        expert: EndpointExpert,
        template: PromptTemplate,
        examples: Sequence[Example],
        check: Check,
    ) -> Iterator[ScoredAnswer]:
        sampling = self.decoding.sampling(self.longest_answer)
        size = _REQUESTS_AT_ONCE * self.config.concurrency
        for start in range(0, len(examples), size):
            asked = examples[start : start + size]
            requests = [
                Request(
                    messages=tuple(template.messages(example)),
                    images=(example.image, *example.extra_images),
                    sampling=sampling,
                    example_id=example.example_id,
                )
                for example in asked
            ]
            for example, reply in zip(asked, expert.ask(requests, check), strict=True):
                if any(sample.problem == EXPERT_FAILED for sample in reply):
                    continue
                problems = [f"{s.problem}: {s.detail}" for s in reply if s.problem]
                answer = judge(example, [sample.text for sample in reply])
                if answer.score is None and problems:
                    answer = dataclasses.replace(answer, error=problems[0])
                yield answer


EvaluatedModel = LocalModel | DistilledModel | EndpointModel
"""Has `identity()`, what its answers depend on besides prompt and decoding (it checks the model);
`asked_as(selection)`, with the prompt that this model is asked; `longest_answer`, in tokens; and
`asking(check)`, which loads or connects, and gives for each template what answers examples."""


def make_model(
    text: str, decoding: Decoding, flags: argparse.Namespace, cache: Path
) -> EvaluatedModel:
    """The model behind a `--model` flag.

    Raises:
      UserError: neither a directory nor `openai:URL#MODEL`.
    """
    if not text.startswith(ENDPOINT):
        directory = Path(text)
        if not is_artifact(directory):
            return LocalModel(directory, decoding, flags)
        if decoding.mode != "greedy":
            raise UserError(
                f"--model={text}: a distilled scorer writes nothing, so there is nothing to "
                "decode; leave --decoding out"
            )
        return DistilledModel(directory, flags)
    url, _, name = text.removeprefix(ENDPOINT).partition("#")
    if decoding.mode == "expected":
        raise UserError(
            f"--model={text}: an endpoint gives no probabilities of all numbers; choose "
            "--decoding=greedy or --decoding=mean for it"
        )
    try:
        config = ExpertConfig(
            endpoint=url, model=name, max_pixels=flags.max_pixels or 0, retries=flags.retries
        )
    except ValueError as error:
        raise UserError(f"--model={text}: {error}; expected openai:URL#MODEL") from error
    return EndpointModel(config, decoding, flags, cache)
