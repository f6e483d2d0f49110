"""An OpenAI-compatible endpoint as an expert: vLLM, SGLang or a hosted model."""

import asyncio
import collections
import email.utils
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2

from jaxqa.errors import UserError
from jaxqa.reasoning.cache import ReplyCache
from jaxqa.reasoning.expert import (
    CUT_OFF,
    EMPTY,
    EXPERT_FAILED,
    NO_IMAGE,
    REFUSED,
    WITHHELD,
    Check,
    ExpertConfig,
    Reply,
    Request,
    Sample,
    request_key,
)
from jaxqa.reasoning.image_urls import data_url, sendable

POLL_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 60.0
LONGEST_RETRY_AFTER_SECONDS = 600.0
FAILURES_IN_A_ROW = 20
"""So many failed calls without a single success: the endpoint is not there, so the stage ends."""

_AGAIN = frozenset({408, 409, 425, 429, *range(500, 600)})
_HOPELESS = {
    401: "the API key is missing or wrong",
    403: "the API key may not use this model",
    404: "no such model or URL",
}

Sleep = Callable[[float], Awaitable[None]]


class EndpointExpert:
    """Asks `/chat/completions`, one call per answer, at most `concurrency` at once.

    Every whole answer is on the disk before it is used, under the content hash of its request, so
    nothing is asked twice: not by a run that was killed, and not by two equal requests.
    """

    def __init__(
        self,
        config: ExpertConfig,
        cache: Path,
        *,
        api_key: str | None = None,
        sleep: Sleep = asyncio.sleep,
    ):
        """Open the file of answers; connections are made by the first `ask`.

        Raises:
          UserError: the file cannot be opened.
        """
        self.calls: Counter[str] = Counter()
        self._config = config
        self._key = api_key
        self._sleep = sleep
        self._cache = ReplyCache(cache)
        self._runner = asyncio.Runner()
        self._client: httpx2.AsyncClient | None = None
        self._resume_at = 0.0  # nobody sends before: the endpoint asked for a pause
        self._failures = 0
        self._end: UserError | None = None  # why nobody is to be asked any more

    def ask(self, requests: Sequence[Request], check: Check) -> list[Reply]:
        """See `Expert`."""
        return self._runner.run(self._ask_all(requests, check))

    def close(self) -> None:
        """See `Expert`."""
        if self._client is not None:
            self._runner.run(self._client.aclose())
            self._client = None
        self._runner.close()
        self._cache.close()

    async def _ask_all(self, requests: Sequence[Request], check: Check) -> list[Reply]:
        if self._client is None:
            self._client = self._connect()
        slots = asyncio.Semaphore(self._config.concurrency)
        locks: dict[str, asyncio.Lock] = collections.defaultdict(asyncio.Lock)
        tasks = [
            [
                asyncio.create_task(self._sample(request, number, slots, locks))
                for number in range(request.sampling.num_samples)
            ]
            for request in requests
        ]
        every = [task for group in tasks for task in group]
        try:
            await _wait(every, check)
        finally:
            for task in every:
                task.cancel()
            await asyncio.gather(*every, return_exceptions=True)
        return [tuple(task.result() for task in group) for group in tasks]

    def _connect(self) -> httpx2.AsyncClient:
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        return httpx2.AsyncClient(
            headers=headers,
            timeout=self._config.timeout_seconds,
            verify=self._config.endpoint.startswith("https"),  # certificates take time to load
            limits=httpx2.Limits(max_connections=self._config.concurrency),
        )

    async def _sample(
        self,
        request: Request,
        number: int,
        slots: asyncio.Semaphore,
        locks: Mapping[str, asyncio.Lock],
    ) -> Sample:
        """Answer `number` to a request."""
        async with slots:
            try:
                images = [
                    await asyncio.to_thread(sendable, image, max_pixels=self._config.max_pixels)
                    for image in request.images
                ]
            except UserError as error:
                return Sample(problem=NO_IMAGE, detail=str(error))
            body = chat_body(request, self._config)
            key = request_key(body, [data for _, data in images], number)
            async with locks[key]:
                known = self._cache.get(key)
                if known is not None:
                    self.calls["from_cache"] += 1
                    return _read(known)
                body["messages"] = _with_images(body["messages"], images)
                answer = await self._send(body, jitter=random.Random(key).random())
                if isinstance(answer, Sample):
                    return self._fail(answer)
                self._failures = 0
                self._cache.put(key, answer)
                for name, tokens in answer["usage"].items():
                    self.calls[name] += tokens
                return _read(answer)

    def _fail(self, sample: Sample) -> Sample:
        self.calls["failed"] += 1
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW:
            self._end = UserError(
                f"{self._config.endpoint}: {self._failures} requests in a row failed, the last "
                f"with: {sample.detail}; see to the endpoint and run the same command again: "
                "the answers so far are kept"
            )
            raise self._end
        return sample

    async def _send(self, body: dict[str, Any], *, jitter: float) -> dict[str, Any] | Sample:
        """The endpoint's answer as a record of the cache, or why there is none."""
        problem = ""
        for attempt in range(self._config.retries + 1):
            await self._pause()
            if self._end is not None:
                raise self._end
            self.calls["sent"] += 1
            wait = self._backoff(attempt, jitter)
            try:
                async with asyncio.timeout(self._config.timeout_seconds):
                    response = await self._post(body)
            except TimeoutError:
                problem = f"no answer in {self._config.timeout_seconds:g} s"
            except httpx2.TimeoutException:
                problem = f"no answer in {self._config.timeout_seconds:g} s"
            except httpx2.HTTPError as error:
                problem = self._clean(f"{type(error).__name__}: {error}")
            else:
                if response.status_code == 200:
                    answer = _parse(response)
                    if answer is not None:
                        return answer
                    problem = self._clean(f"not a chat completion: {response.text[:200]}")
                else:
                    problem = self._clean(f"status {response.status_code}: {_reason(response)}")
                    self._give_up_if_hopeless(response.status_code, problem)
                    if response.status_code not in _AGAIN:
                        return Sample(problem=REFUSED, detail=problem)
                    wait = self._wait_asked_for(response, wait)
            if wait > LONGEST_RETRY_AFTER_SECONDS:
                detail = f"{problem}; asks for a pause of {wait:.0f} s"
                return Sample(problem=EXPERT_FAILED, detail=detail)
            if attempt < self._config.retries:
                self.calls["retried"] += 1
                await self._sleep(wait)
        detail = f"{problem} ({self._config.retries + 1} attempts)"
        return Sample(problem=EXPERT_FAILED, detail=detail)

    async def _post(self, body: dict[str, Any]) -> httpx2.Response:
        assert self._client is not None  # `_ask_all` made it
        url = self._config.endpoint.rstrip("/") + "/chat/completions"
        return await self._client.post(url, json=body)

    async def _pause(self) -> None:
        """Wait until the endpoint has had the pause that it asked any call for."""
        while (until := self._resume_at) > time.monotonic():
            await self._sleep(until - time.monotonic())
            if self._resume_at == until:  # nobody has asked for a longer one meanwhile
                self._resume_at = 0.0

    def _backoff(self, attempt: int, jitter: float) -> float:
        longest = min(self._config.backoff_seconds * 2**attempt, LONGEST_BACKOFF_SECONDS)
        return longest * (0.5 + 0.5 * jitter)

    def _wait_asked_for(self, response: httpx2.Response, otherwise: float) -> float:
        """Seconds of `Retry-After`, which hold for every call; else `otherwise`."""
        seconds = retry_after(response.headers.get("Retry-After"), now=time.time())
        if seconds is None:
            return otherwise
        if seconds <= LONGEST_RETRY_AFTER_SECONDS:
            self._resume_at = max(self._resume_at, time.monotonic() + seconds)
        return seconds

    def _give_up_if_hopeless(self, status: int, problem: str) -> None:
        if status in _HOPELESS:
            config = self._config
            place = f"config: endpoint {config.endpoint}, model {config.model!r}"
            key = f", api_key_env {config.api_key_env!r}" if status != 404 else ""
            self._end = UserError(f"{place}{key}: {_HOPELESS[status]} ({problem})")
            raise self._end

    def _clean(self, text: str) -> str:
        """One line without the API key."""
        text = " ".join(text.split())
        return text.replace(self._key, "***") if self._key else text


def chat_body(request: Request, config: ExpertConfig) -> dict[str, Any]:
    """JSON body of a call, images still placeholders."""
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": config.model,
        "messages": [dict(message) for message in request.messages],
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
    }
    # Beyond the OpenAI interface, or refused by some models: only where asked for.
    for name, off in (("top_p", 1.0), ("top_k", 0), ("min_p", 0.0)):
        if getattr(sampling, name) != off:
            body[name] = getattr(sampling, name)
    body |= config.extra
    return {name: value for name, value in body.items() if value is not None}


def retry_after(header: str | None, *, now: float) -> float | None:
    """Seconds that a `Retry-After` header asks for: a number, or a date; None if neither."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - now
        except ValueError:
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


async def _wait(tasks: Sequence[asyncio.Task], check: Check) -> None:
    """Wait for all tasks, calling `check` meanwhile; the first exception is raised at once."""
    pending = set(tasks)
    while pending:
        done, pending = await asyncio.wait(
            pending, timeout=POLL_SECONDS, return_when=asyncio.FIRST_EXCEPTION
        )
        for task in done:
            task.result()
        check()


def _with_images(
    messages: Sequence[Mapping[str, Any]], images: Sequence[tuple[str, bytes]]
) -> list[dict[str, Any]]:
    """`messages` with the placeholders filled, in order."""
    left = iter(images)

    def filled(part: Mapping[str, Any]) -> Mapping[str, Any]:
        if part["type"] != "image":
            return part
        return {"type": "image_url", "image_url": {"url": data_url(*next(left))}}

    return [
        dict(message)
        if isinstance(message["content"], str)
        else {**message, "content": [filled(part) for part in message["content"]]}
        for message in messages
    ]


def _parse(response: httpx2.Response) -> dict[str, Any] | None:
    """What is kept of a chat completion; None if it is none."""
    try:
        value = response.json()
        choice = value["choices"][0]
        content = choice["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if isinstance(content, list):  # parts
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if not isinstance(content, str | None):
        return None
    usage = value.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    names = ("prompt_tokens", "completion_tokens")
    return {
        "text": content or "",
        "finish": str(choice.get("finish_reason")),
        "usage": {name: counts[name] for name in names if isinstance(counts.get(name), int)},
    }


def _read(record: Mapping[str, Any]) -> Sample:
    """A record of the cache as a sample."""
    text, finish = str(record["text"]), record["finish"]
    if finish == "length":
        return Sample(text=text, problem=CUT_OFF, detail=text[-200:])
    if finish == "content_filter":
        return Sample(text=text, problem=WITHHELD, detail=text[-200:])
    return Sample(text=text, problem=None if text.strip() else EMPTY)


def _reason(response: httpx2.Response) -> str:
    """The endpoint's own words about an error, shortened."""
    try:
        error = response.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:200]
    except (ValueError, LookupError, TypeError, RecursionError):
        return response.text[:200]
