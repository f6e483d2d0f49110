"""Who is asked for rationales and judgements: an endpoint, or the policy itself."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxqa.data.records import ImageSource
from jaxqa.data.tokenizer import Message
from jaxqa.sampling.config import SamplingConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One question, `sampling.num_samples` answers wanted.

    Attributes:
      messages: chat turns, with a placeholder for each image.
      images: in the order of their placeholders.
      sampling: how the answers are sampled, and how many.
      example_id: the example that is asked about.
      turn: number of the question about this example, from 0; the policy's random streams derive
        from example and turn.
    """

    messages: tuple[Message, ...]
    images: tuple[ImageSource, ...] = ()
    sampling: SamplingConfig = SamplingConfig()
    example_id: int = 0
    turn: int = 0


EXPERT_FAILED = "expert_failed"
"""Nobody answered at all; asking again may help."""

CUT_OFF, EMPTY, WITHHELD = "cut_off", "empty_answer", "withheld"
REFUSED, NO_IMAGE = "refused", "unreadable_image"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One answer.

    Attributes:
      text: what was said; may be part of an answer where there is a problem.
      problem: why it is not a whole answer, one of the words above; None if it is one.
      detail: more of that, for people.
    """

    text: str = ""
    problem: str | None = None
    detail: str = ""


Reply = tuple[Sample, ...]
"""`num_samples` answers to one request."""

Check = Callable[[], None]
"""Called several times a second while waiting; may raise to give up."""


@runtime_checkable
class Expert(Protocol):
    """Answers requests."""

    @property
    def calls(self) -> Counter[str]:
        """What answering took so far, for the audit: requests sent, answers from the cache, ..."""
        ...

    def ask(self, requests: Sequence[Request], check: Check) -> list[Reply]:
        """A reply to each request, in order; what goes wrong with one stands in its samples.

        Raises:
          UserError: the expert cannot be asked at all.
        """
        ...

    def close(self) -> None:
        """Let go of connections and files."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertConfig:
    """An expert: the policy as it stands when the stage begins, or an OpenAI-compatible endpoint.

    Attributes:
      endpoint: base URL such as `http://localhost:8000/v1` (vLLM, SGLang, a hosted model); empty
        for the policy, and then the other fields do not count.
      model: name of the model at the endpoint.
      stand_in: nobody is asked: the data set's own rationales are repeated, to try a pipeline out.
      api_key_env: environment variable that holds the endpoint's key; empty for none.
      concurrency: most requests in flight at once.
      timeout_seconds: longest wait for one answer.
      retries: how often a request is sent again after a timeout, a refused connection, 408, 409,
        429 or 5xx.
      backoff_seconds: wait before the first retry; doubled by each further one, up to a minute. A
        `Retry-After` header counts instead.
      max_pixels: larger images are sent reduced to this many pixels, as PNG; 0 sends the file.
      cache: file of answers; empty for one in the work directory. Runs may share it in turn.
      extra: more keys of each request's JSON body, as the server wants them; None removes a key.
    """

    endpoint: str = ""
    model: str = ""
    stand_in: bool = False
    api_key_env: str = ""
    concurrency: int = 16
    timeout_seconds: float = 120.0
    retries: int = 5
    backoff_seconds: float = 1.0
    max_pixels: int = 0
    cache: str = ""
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(f"endpoint is {self.endpoint!r}; expected http://... or https://...")
        if bool(self.endpoint) != bool(self.model):
            raise ValueError(
                f"endpoint is {self.endpoint!r} and model {self.model!r}; expected both, or "
                "neither for the policy"
            )
        if self.stand_in and self.endpoint:
            raise ValueError(f"stand_in asks nobody, but endpoint is {self.endpoint!r}; unset one")
        rules = {
            "concurrency": self.concurrency >= 1,
            "timeout_seconds": 0 < self.timeout_seconds < float("inf"),
            "retries": self.retries >= 0,
            "backoff_seconds": 0 <= self.backoff_seconds < float("inf"),
            "max_pixels": self.max_pixels >= 0,
        }
        for name, valid in rules.items():
            if not valid:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a positive number")


REACHED_BY = (
    *("endpoint", "api_key_env", "concurrency", "timeout_seconds"),
    *("retries", "backoff_seconds", "cache"),
)
"""Options that say how a model at an endpoint is reached, not what it is asked."""


def request_key(body: Mapping[str, Any], images: Sequence[bytes], number: int) -> str:
    """Content hash of one call: the JSON body without images, the images, which sample it is."""
    digest = hashlib.sha256(json.dumps([body, number], sort_keys=True).encode())
    for image in images:
        digest.update(hashlib.sha256(image).digest())
    return digest.hexdigest()
