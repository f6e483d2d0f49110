"""What every protocol of the server asks: scores of images, within limits."""

import asyncio
import base64
import binascii
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, get_args

import numpy as np

from jaxqa.errors import UserError
from jaxqa.scoring import image_inputs
from jaxqa.scoring.api import ImageScorer
from jaxqa.scoring.decoding import Decoding
from jaxqa.scoring.image_inputs import Load
from jaxqa.scoring.question import Mode, Question
from jaxqa.scoring.results import Comparison, Score
from jaxqa.scoring.urls import UrlPolicy
from jaxqa.serving import rehearsal
from jaxqa.serving.batcher import Batcher, BatcherConfig
from jaxqa.serving.rehearsal import Part

_DATA_URL = "data:"

NEED_PROMPT = ("alignment",)
"""Tasks that rate how well an image shows a text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """What a request may be.

    Attributes:
      max_body_bytes: of a request.
      max_held_bytes: of all requests together that wait for their answers.
      max_images: in a request.
      max_prompt_length: characters of a text.
      timeout: seconds that an answer may take, queue included.
      read_timeout: seconds in which a client must have sent its request.
      allow_urls: whether images may be URLs, which the server then fetches.
    """

    max_body_bytes: int = 64 * 2**20
    max_held_bytes: int = 512 * 2**20
    max_images: int = 64
    max_prompt_length: int = 4000
    timeout: float = 120.0
    read_timeout: float = 30.0
    allow_urls: bool = False

    def __post_init__(self):
        if min(self.max_body_bytes, self.max_images, self.max_prompt_length) < 1:
            raise UserError(f"{self}: expected limits of at least 1")
        if self.max_held_bytes < self.max_body_bytes:
            raise UserError(
                f"max_held_bytes is {self.max_held_bytes}; expected at least the "
                f"{self.max_body_bytes} of one request"
            )
        if not (self.timeout > 0 and self.read_timeout > 0):
            raise UserError(f"{self}: expected timeouts above 0")


class TooSlow(Exception):
    """The answer did not come in time."""


@dataclasses.dataclass(frozen=True)
class _Pictures:
    """See `blocks.Query`."""

    loads: Sequence[Load]
    prompt: str | None = None

    def load(self) -> list[np.ndarray]:
        return [load() for load in self.loads]


class Service:
    """A scorer behind a queue."""

    def __init__(
        self,
        scorer: ImageScorer,
        *,
        name: str,
        limits: ServerLimits = ServerLimits(),
        batching: BatcherConfig | None = None,
        default: Question | None = None,
        modes: Sequence[str] = (),
    ):
        """Take a scorer.

        Args:
          scorer: who scores.
          name: what clients call the model.
          limits: of requests.
          batching: how requests are put together.
          default: what is asked unless a request says otherwise. Requests choose task and mode;
            samples, temperature and seed stay, since each of them is a program of its own.
          modes: that requests may choose; all of the model if none are given.

        Raises:
          UserError: the model has not all of `modes`, or the default mode is none of them.
        """
        self.scorer, self.name, self.limits = scorer, name, limits
        self._default, self._modes = default or scorer.question(), ()
        self._modes = self._served(modes)
        if self._modes and self._default.mode not in self._modes:
            raise UserError(
                f"mode {self._default.mode!r} is the default and none of the modes that are "
                f"served, {', '.join(self._modes)}; give it, or another default"
            )
        self.batcher = Batcher(batching or BatcherConfig())

    def question(self, task: str | None = None, mode: str | None = None) -> Question:
        """What is asked.

        Raises:
          UserError: the model cannot be asked so.
        """
        default = self._default
        task = task or default.task
        mode = mode or (default.mode if task == default.task else self._own_mode(task))
        question = self.scorer.question(task, mode, seed=default.seed)
        if self._modes and question.mode not in self._modes:
            raise UserError(
                f"mode {question.mode!r} is not served; expected {' or '.join(self._modes)}"
            )
        if question.mode == default.mode:
            question = dataclasses.replace(
                question, samples=default.samples, temperature=default.temperature
            )
        self.scorer.asker(question)  # refuses what the model cannot be asked
        return question

    def modes(self, task: str) -> list[str]:
        """The modes in which the model can be asked about a task."""
        found = []
        for mode in get_args(Mode):
            with contextlib.suppress(UserError):
                found.append(self.question(task, mode).mode)
        return found

    @property
    def compares_with_reference(self) -> bool:
        """Whether the model can be shown two images and a third that both were made from."""
        return self.scorer.model.chooser(Decoding()) is not None

    def _served(self, modes: Sequence[str]) -> tuple[str, ...]:
        """These modes, of which the model has each in some task."""
        if not modes:
            return ()
        own = {task: self.modes(task) for task in self.scorer.tasks}
        lacking = [mode for mode in modes if not any(mode in known for known in own.values())]
        if lacking:
            has = "; ".join(f"{task}: {', '.join(known)}" for task, known in own.items())
            raise UserError(
                f"modes: this model has no {' and no '.join(map(repr, lacking))}; it can be asked "
                f"{has}; name some of these, or none to serve all"
            )
        return tuple(modes)

    def _own_mode(self, task: str) -> str:
        """The model's own mode for a task, or the first of it that is served."""
        own = self.scorer.model.default_mode(task)
        return own if own in self._modes or not self._modes else next(iter(self.modes(task)), own)

    def warm_up(
        self,
        sizes: Sequence[tuple[int, int]] | None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Compile what images of these sizes (height, width) need, in every task and mode.

        Args:
          sizes: of the images; None compiles for every size that is accepted.
          tell: called with a line about each program that is ready.

        Raises:
          UserError: the model cannot be asked about such an image.
        """
        rehearsal.rehearse(self.batcher, self._parts(), sizes, tell)

    def _parts(self) -> Iterator[Part]:
        """Whatever a request may ask."""
        for task in self.scorer.tasks:
            for mode in self.modes(task):
                asker = self.scorer.asker(self.question(task, mode))
                text = task in NEED_PROMPT
                yield Part(name=f"{task}, {mode}", asker=asker, asks_for_text=text)
        if not self.compares_with_reference:
            return
        known: set[int] = set()  # tasks share who compares, and so do modes that draw nothing
        nothing: dict[str, Load] = {}
        for name in ("image A", "image B", "reference"):
            nothing[name] = lambda: np.zeros((1, 1, 3), np.uint8)
        for task in self.scorer.tasks:
            for mode in self.modes(task):
                asker = self.scorer.comparison(self.question(task, mode), nothing).asker
                if id(asker) not in known:
                    known.add(id(asker))
                    kind = "mean" if mode == "mean" else "one answer"
                    yield Part(name=f"comparison, {kind}", asker=asker, pictures=3)

    async def score(
        self, question: Question, images: Sequence[Any], prompts: Sequence[str | None]
    ) -> list[Score]:
        """One result per image.

        Args:
          question: what is asked.
          images: encoded bytes, or URLs.
          prompts: a text for each image; trainers always send them, tasks that need none do not
            see them.

        Raises:
          UserError: too many images, too long a text, or none where the task needs one.
          Busy: the queue is full.
          TooSlow: the answer did not come in time.
        """
        self._check(images, prompts)
        if question.task not in NEED_PROMPT:
            prompts = [None] * len(images)
        elif None in prompts:
            raise UserError(
                f"task {question.task!r} rates how well images show a text: give prompts"
            )
        queries = [
            _Pictures([self._load(image, f"image {number}")], prompt)
            for number, (image, prompt) in enumerate(zip(images, prompts, strict=True))
        ]
        return await self._answers(self.scorer.asker(question), queries)

    async def compare(
        self, question: Question, images: dict[str, Any], prompt: str | None = None
    ) -> Comparison:
        """Which of "image A" and "image B" is better, given "reference" if there is one.

        Raises:
          UserError: see `score`.
          Busy: the queue is full.
          TooSlow: the answer did not come in time.
        """
        self._check(list(images.values()), [prompt])
        loads = {name: self._load(image, name) for name, image in images.items()}
        shown = prompt if question.task in NEED_PROMPT else None
        asked = self.scorer.comparison(question, loads, shown)
        first, second = await self._answers(asked.asker, asked.queries)
        return asked.read(first, second)

    async def _answers(self, asker: Any, queries: Sequence[Any]) -> list[Any]:
        futures: list[Future[Any]] = self.batcher.submit(asker, queries)
        try:
            waiting = asyncio.gather(*map(asyncio.wrap_future, futures))
            return await asyncio.wait_for(waiting, self.limits.timeout)
        except TimeoutError as error:
            raise TooSlow(f"no answer within {self.limits.timeout:g} s") from error
        finally:
            for future in futures:
                future.cancel()

    def _check(self, images: Sequence[Any], prompts: Sequence[str | None]) -> None:
        limits = self.limits
        if not 1 <= len(images) <= limits.max_images:
            raise UserError(f"{len(images)} images; expected 1 to {limits.max_images} in a request")
        if any(len(prompt or "") > limits.max_prompt_length for prompt in prompts):
            raise UserError(f"a prompt is longer than {limits.max_prompt_length} characters")

    def _load(self, image: Any, name: str) -> Load:
        if isinstance(image, str) and not self.limits.allow_urls:
            raise UserError(f"{name} is a URL, which this server does not fetch; send its bytes")
        policy = UrlPolicy() if self.limits.allow_urls else None
        return image_inputs.loader(image, name=name, url_policy=policy, limits=self.scorer.limits)


def image_of(value: Any, name: str) -> bytes | str:
    """An image in a JSON request: `{"b64": ...}`, `{"url": ...}`, base64 text, or a data URL.

    Raises:
      UserError: none of these.
    """
    if isinstance(value, dict) and len(value) == 1:
        kind, text = next(iter(value.items()))
        if kind == "url" and isinstance(text, str):
            return _of_url(text, name)
        if kind == "b64" and isinstance(text, str):
            return _of_base64(text, name)
    if isinstance(value, str):
        return _of_url(value, name) if ":" in value[:16] else _of_base64(value, name)
    raise UserError(f'{name}: expected {{"b64": "..."}} or {{"url": "..."}}')


def _of_url(text: str, name: str) -> bytes | str:
    if text.startswith(_DATA_URL):
        head, comma, data = text.partition(",")
        if comma and head.endswith(";base64"):
            return _of_base64(data, name)
        raise UserError(f"{name}: expected a data URL in base64")
    if text.startswith(("http://", "https://")):
        return text
    raise UserError(f"{name}: expected a data:, http: or https: URL")


def _of_base64(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{name}: not base64: {error}") from error
