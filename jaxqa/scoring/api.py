"""The object that `jaxqa.load` returns: scores images, whatever kind of model stands behind it.

scorer = jaxqa.load("runs/demo/export")
for found in scorer.score(["a.jpg", "b.png"], task="quality", mode="expected"):
    print(found.score, found.normalised, found.rationale, found.error)
"""

import dataclasses
import itertools
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxqa.data.images import DEFAULT_LIMITS, DecodeLimits
from jaxqa.errors import UserError
from jaxqa.scoring import blocks, image_inputs
from jaxqa.scoring.blocks import Asker
from jaxqa.scoring.compare import Choice, combine, compare_scores
from jaxqa.scoring.decoding import Decoding
from jaxqa.scoring.image_inputs import ImageInput, Load
from jaxqa.scoring.question import Question
from jaxqa.scoring.results import Comparison, Score
from jaxqa.scoring.urls import UrlPolicy

_WORKERS = max(1, min(8, os.cpu_count() or 1))


@runtime_checkable
class ScoringModel(Protocol):
    """What stands behind a scorer: a reasoning model, a distilled one, ..."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that it scores."""
        ...

    def default_mode(self, task: str) -> str:
        """How it is asked unless told otherwise; UserError if it does not score the task."""
        ...

    def score_range(self, task: str) -> tuple[float, float]:
        """Lowest and highest score; UserError if it does not score the task."""
        ...

    def asker(self, question: Question) -> Asker[Score]:
        """Who asks it for scores; UserError if it cannot be asked so."""
        ...

    def chooser(self, decoding: Decoding) -> Asker[Choice] | None:
        """Who asks it which of two images is better, given a third; None if it cannot say."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pictures:
    """One question's pictures, not yet read; see `blocks.Query`."""

    loads: Sequence[Load]
    prompt: str | None = None

    def load(self) -> list[np.ndarray]:
        return [load() for load in self.loads]


@dataclasses.dataclass(frozen=True)
class AskedComparison:
    """A comparison before it is answered.

    Attributes:
      asker: who asks.
      queries: two questions.
      read: what their two results come to.
    """

    asker: Asker[Any]
    queries: Sequence[blocks.Query]
    read: Callable[[Any, Any], Comparison]


class ImageScorer:
    """Scores images.

    An image's score depends on the image, the prompt text and the question alone: it is the same
    to the last bit alone or among others, in any order (per device type, mesh, rows of a block and
    compiler version).
    """

    def __init__(
        self,
        model: ScoringModel,
        *,
        name: str = "",
        workers: int = _WORKERS,
        limits: DecodeLimits = DEFAULT_LIMITS,
    ):
        """Take a model.

        Args:
          model: see `ScoringModel`.
          name: what messages call it.
          workers: threads that read and prepare images.
          limits: on the images that are accepted.
        """
        if workers < 1:
            raise UserError(f"workers is {workers}; expected at least 1")
        self.model, self.name = model, name
        self.limits, self._workers = limits, workers
        self._askers: dict[Question, Asker[Score]] = {}
        self._choosers: dict[Decoding, Asker[Choice] | None] = {}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that the model scores."""
        return self.model.tasks

    def score_range(self, task: str | None = None) -> tuple[float, float]:
        """Lowest and highest score of a task; of the model's first one by default."""
        return self.model.score_range(task or self.tasks[0])

    def asker(self, question: Question) -> Asker[Score]:
        """Who asks the model; the same for equal questions.

        Raises:
          UserError: the model cannot be asked so.
        """
        if question not in self._askers:
            self._askers[question] = self.model.asker(question)
        return self._askers[question]

    def question(
        self,
        task: str | None = None,
        mode: str | None = None,
        *,
        samples: int | None = None,
        temperature: float | None = None,
        seed: int = 0,
    ) -> Question:
        """A question with the model's own task and mode where none is given.

        Raises:
          UserError: options that are unknown or make no sense together.
        """
        task = task or self.tasks[0]
        return Question(
            task=task,
            mode=mode or self.model.default_mode(task),
            samples=samples,
            temperature=temperature,
            seed=seed,
        )

    def score(
        self,
        images: ImageInput | Iterable[ImageInput],
        task: str | None = None,
        prompts: str | Iterable[str | None] | None = None,
        mode: str | None = None,
        *,
        samples: int | None = None,
        temperature: float | None = None,
        seed: int = 0,
        batch_size: int = 2,
        allow_urls: bool | UrlPolicy = False,
    ) -> list[Score]:
        """One result per image, in their order; what is wrong with an image is in its result.

        Args:
          images: paths, encoded bytes, PIL images, arrays (height, width, channels; uint8 or
            floats from 0 to 1), URLs; or one of these.
          task: "quality", "aesthetics" or "alignment"; the model's first by default.
          prompts: texts that the images were made from, for alignment; one for all, or one each.
          mode: "think", "fast", "expected" or "mean", see `Question`.
          samples: answers per image, in the modes "mean" and "expected".
          temperature: of sampled answers.
          seed: names the random draws.
          batch_size: blocks that are on the device at a time; it changes no score.
          allow_urls: whether URLs are fetched, or within which bounds.

        Raises:
          UserError: options that are unknown, that the model cannot serve, or prompts that do not
            match the images.
        """
        question = self.question(task, mode, samples=samples, temperature=temperature, seed=seed)
        found = dict(
            self.stream(
                images, question, prompts=prompts, batch_size=batch_size, allow_urls=allow_urls
            )
        )
        return [found[number] for number in range(len(found))]

    def stream(
        self,
        images: ImageInput | Iterable[ImageInput],
        question: Question | None = None,
        *,
        prompts: str | Iterable[str | None] | None = None,
        batch_size: int = 2,
        allow_urls: bool | UrlPolicy = False,
    ) -> Generator[tuple[int, Score], None, None]:
        """Yield (number of the image, result) as results come; `images` may be endless.

        Raises:
          UserError: see `score`.
        """
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; expected at least 1 block")
        question = question or self.question()
        if question.task == "alignment" and prompts is None:
            raise UserError("task 'alignment' rates how well images show a text: give prompts")
        asker, policy = self.asker(question), _policy(allow_urls)
        names: dict[int, str] = {}

        def queries() -> Iterator[_Pictures]:
            for number, (image, prompt) in enumerate(_with_prompts(images, prompts)):
                names[number] = image_inputs.name_of(image, f"image {number}")
                yield _Pictures(loads=[self._load(image, names[number], policy)], prompt=prompt)

        found = blocks.answer_all(asker, queries(), workers=self._workers, blocks=batch_size)
        for number, score in found:
            yield number, dataclasses.replace(score, name=names.pop(number))

    def compare(
        self,
        a: ImageInput,
        b: ImageInput,
        reference: ImageInput | None = None,
        *,
        task: str | None = None,
        prompt: str | None = None,
        samples: int = 1,
        seed: int = 0,
        allow_urls: bool | UrlPolicy = False,
    ) -> Comparison:
        """Which of two images is better.

        With a reference and a model that was taught to compare, it is shown the reference and the
        two in both orders; the answers are averaged, so the position of an image cancels out.
        Otherwise each is scored on its own, which knows no position.

        Args:
          a: the first image.
          b: the second image.
          reference: what both were made from, such as a degraded image.
          task: what is rated where the images are scored.
          prompt: text that the images were made from, for alignment.
          samples: answers in each order, sampled if more than one; scores take this many too.
          seed: names the random draws.
          allow_urls: see `score`.

        Raises:
          UserError: options that are unknown or that the model cannot serve.
        """
        drawn = samples if samples > 1 else None
        question = self.question(task, "mean" if drawn else None, samples=drawn, seed=seed)
        policy = _policy(allow_urls)
        images = {"image A": a, "image B": b, "reference": reference}
        loads = {
            name: self._load(image, image_inputs.name_of(image, name), policy)
            for name, image in images.items()
            if image is not None
        }
        asked = self.comparison(question, loads, prompt)
        found = blocks.answer_all(asked.asker, asked.queries, workers=self._workers, blocks=2)
        answers = dict(found)
        return asked.read(answers[0], answers[1])

    def comparison(
        self, question: Question, loads: Mapping[str, Load], prompt: str | None = None
    ) -> AskedComparison:
        """What is asked to compare two images; see `compare`.

        Args:
          question: what is rated where the images are scored; sampled if its mode is "mean".
          loads: what gives "image A", "image B" and perhaps "reference".
          prompt: text that the images were made from, for alignment.

        Raises:
          UserError: the model cannot be asked so, or the text is missing.
        """
        first, second = loads["image A"], loads["image B"]
        chooser = self._chooser(question) if "reference" in loads else None
        if chooser is not None:
            reference = loads["reference"]
            orders = [[reference, first, second], [reference, second, first]]
            return AskedComparison(chooser, [_Pictures(loads=order) for order in orders], combine)
        if question.task == "alignment" and prompt is None:
            raise UserError("task 'alignment' rates how well images show a text: give a prompt")
        queries = [_Pictures(loads=[load], prompt=prompt) for load in (first, second)]
        return AskedComparison(self.asker(question), queries, compare_scores)

    def _chooser(self, question: Question) -> Asker[Choice] | None:
        drawn = question.mode == "mean"
        decoding = question.decoding if drawn else Decoding(seed=question.seed)
        if decoding not in self._choosers:
            self._choosers[decoding] = self.model.chooser(decoding)
        return self._choosers[decoding]

    def _load(self, image: ImageInput, name: str, policy: UrlPolicy | None) -> Load:
        return image_inputs.loader(image, name=name, url_policy=policy, limits=self.limits)


def _policy(allow_urls: bool | UrlPolicy) -> UrlPolicy | None:
    if isinstance(allow_urls, UrlPolicy):
        return allow_urls
    return UrlPolicy() if allow_urls else None


def _with_prompts(
    images: ImageInput | Iterable[ImageInput], prompts: str | Iterable[str | None] | None
) -> Iterator[tuple[ImageInput, str | None]]:
    pictures = image_inputs.as_images(images)
    if prompts is None or isinstance(prompts, str):
        yield from zip(pictures, itertools.repeat(prompts))
        return
    try:
        yield from zip(pictures, prompts, strict=True)
    except ValueError as error:
        raise UserError(
            "prompts: not as many as images; expected one prompt for all images, or one for each"
        ) from error
