"""Calls to an endpoint: sent again while that may help, given up when it cannot."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2

from jaxqa.errors import UserError
from jaxqa.reasoning.chat import SHOWN_CHARACTERS, error_text, parse_completion, retry_after
from jaxqa.reasoning.expert import EXPERT_FAILED, REFUSED, ExpertConfig, Sample

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
_LOCAL = ("localhost", "127.0.0.1", "[::1]", "::1")

Completion = dict[str, Any]
Sleep = Callable[[float], Awaitable[None]]


class _Again(Exception):
    """A call that failed in a way that may pass.

    Attributes:
      wait: seconds that the endpoint asks for, or None.
    """

    def __init__(self, problem: str, wait: float | None = None):
        super().__init__(problem)
        self.wait = wait


class Connection:
    """One endpoint; used inside one event loop."""

    def __init__(
        self, config: ExpertConfig, *, calls: Counter[str], api_key: str | None, sleep: Sleep
    ):
        """Make the client; nothing is sent yet. `calls` counts what is."""
        self._config, self._calls, self._key, self._sleep = config, calls, api_key, sleep
        self._resume_at = 0.0  # nobody sends before: the endpoint asked for a pause
        self._failures = 0
        self._end: UserError | None = None  # why nothing is to be sent any more
        url = httpx2.URL(config.endpoint)
        self._client = httpx2.AsyncClient(
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            timeout=config.timeout_seconds,
            verify=url.scheme == "https",  # certificates take time to load
            trust_env=url.host not in _LOCAL,  # no proxy leads back to this machine
            limits=httpx2.Limits(max_connections=config.concurrency),
        )

    async def send(self, body: dict[str, Any], *, jitter: float) -> Completion | Sample:
        """A whole answer, or why there is none.

        Args:
          body: of the request.
          jitter: from 0 to 1; spreads the waits of calls that fail together.

        Raises:
          UserError: asking this endpoint is of no use.
        """
        outcome = await self._insist(body, jitter)
        if not isinstance(outcome, Sample):
            self._failures = 0
            return outcome
        self._calls["failed"] += 1
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW:
            raise self._ended(
                f"{self._config.endpoint}: {self._failures} requests in a row failed, the last "
                f"with: {outcome.detail}; see to the endpoint and run the same command again: "
                "the answers so far are kept"
            )
        return outcome

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _insist(self, body: dict[str, Any], jitter: float) -> Completion | Sample:
        problem = ""
        for attempt in range(self._config.retries + 1):
            await self._pause()
            try:
                return await self._try(body)
            except _Again as failure:
                problem = str(failure)
                wait = self._backoff(attempt, jitter) if failure.wait is None else failure.wait
            if wait > LONGEST_RETRY_AFTER_SECONDS:
                detail = f"{problem}; asks for a pause of {wait:.0f} s"
                return Sample(problem=EXPERT_FAILED, detail=detail)
            if attempt < self._config.retries:
                self._calls["retried"] += 1
                await self._sleep(wait)
        detail = f"{problem} ({self._config.retries + 1} attempts)"
        return Sample(problem=EXPERT_FAILED, detail=detail)

    async def _try(self, body: dict[str, Any]) -> Completion | Sample:
        """One call; raises `_Again` where another may succeed."""
        if self._end is not None:
            raise self._end
        self._calls["sent"] += 1
        try:
            async with asyncio.timeout(self._config.timeout_seconds):  # of the call as a whole
                url = self._config.endpoint.rstrip("/") + "/chat/completions"
                response = await self._client.post(url, json=body)
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise _Again(f"no answer in {self._config.timeout_seconds:g} s") from error
        except httpx2.HTTPError as error:
            raise _Again(self._clean(f"{type(error).__name__}: {error}")) from error
        if response.status_code != 200:
            return self._refusal(response)
        completion = parse_completion(response)
        if completion is None:
            text = response.text[:SHOWN_CHARACTERS]
            raise _Again(self._clean(f"not a chat completion: {text}"))
        return completion

    def _refusal(self, response: httpx2.Response) -> Sample:
        status = response.status_code
        problem = self._clean(f"status {status}: {error_text(response)}")
        if status in _HOPELESS:
            config = self._config
            place = f"config: endpoint {config.endpoint}, model {config.model!r}"
            key = f", api_key_env {config.api_key_env!r}" if status != 404 else ""
            raise self._ended(f"{place}{key}: {_HOPELESS[status]} ({problem})")
        if status not in _AGAIN:
            return Sample(problem=REFUSED, detail=problem)
        wait = retry_after(response.headers.get("Retry-After"), now=time.time())
        if wait is not None and wait <= LONGEST_RETRY_AFTER_SECONDS:
            self._resume_at = max(self._resume_at, time.monotonic() + wait)
        raise _Again(problem, wait)

    async def _pause(self) -> None:
        """Wait until the endpoint has had the pause that it asked any call for."""
        while (until := self._resume_at) > time.monotonic():
            await self._sleep(until - time.monotonic())
            if self._resume_at == until:  # nobody has asked for a longer one meanwhile
                self._resume_at = 0.0

    def _backoff(self, attempt: int, jitter: float) -> float:
        longest = min(self._config.backoff_seconds * 2**attempt, LONGEST_BACKOFF_SECONDS)
        return longest * (0.5 + 0.5 * jitter)

    def _ended(self, message: str) -> UserError:
        """The error that ends this call and all that follow."""
        self._end = UserError(message)
        return self._end

    def _clean(self, text: str) -> str:
        """One line without the API key."""
        text = " ".join(text.split())
        return text.replace(self._key, "***") if self._key else text
