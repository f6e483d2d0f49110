"""An OpenAI-compatible endpoint as an expert: vLLM, SGLang or a hosted model."""

import asyncio
import collections
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxqa.errors import UserError
from jaxqa.reasoning.cache import ReplyCache
from jaxqa.reasoning.chat import chat_body, read_completion, with_images
from jaxqa.reasoning.connection import Connection, Sleep
from jaxqa.reasoning.expert import (
    NO_IMAGE,
    Check,
    ExpertConfig,
    Reply,
    Request,
    Sample,
    request_key,
)
from jaxqa.reasoning.image_urls import sendable

POLL_SECONDS = 0.1


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
        self._cache = ReplyCache(cache)
        self._connection = Connection(config, calls=self.calls, api_key=api_key, sleep=sleep)
        self._runner = asyncio.Runner()

    def ask(self, requests: Sequence[Request], check: Check) -> list[Reply]:
        """See `Expert`."""
        return self._runner.run(self._ask_all(requests, check))

    def close(self) -> None:
        """See `Expert`."""
        self._runner.run(self._connection.close())
        self._runner.close()
        self._cache.close()

    async def _ask_all(self, requests: Sequence[Request], check: Check) -> list[Reply]:
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
                    return read_completion(known)
                body["messages"] = with_images(body["messages"], images)
                answer = await self._connection.send(body, jitter=random.Random(key).random())
                if isinstance(answer, Sample):
                    return answer
                self._cache.put(key, answer)
                self.calls.update(answer["usage"])
                return read_completion(answer)


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
