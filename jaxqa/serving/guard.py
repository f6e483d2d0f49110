"""What every request passes first: the key, the size of its body, and the time it may take."""

import asyncio
import hmac
import json
import time
from collections.abc import Collection
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxqa.serving.measures import Measures

OPEN_PATHS = ("/health",)
"""Answered without a key."""


class Guard:
    """ASGI middleware."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        key: str | None,
        max_body_bytes: int,
        max_held_bytes: int,
        read_timeout: float,
        measures: Measures,
        reads: Collection[str] = (),
    ):
        """Wrap `app`.

        Args:
          app: what answers.
          key: what clients must send as `Authorization: Bearer KEY`; None lets everyone in.
          reads: paths that may be read (GET) without a key, beside `OPEN_PATHS`.
          max_body_bytes: of a request.
          max_held_bytes: of all requests together that have no answer yet.
          read_timeout: seconds in which the whole body must have come.
          measures: where requests are counted.
        """
        self._app, self._key = app, key
        self._max_body_bytes, self._read_timeout = max_body_bytes, read_timeout
        self._max_held_bytes, self._held_bytes = max_held_bytes, 0
        self._measures, self._reads = measures, frozenset(reads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.monotonic(), 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, watch)
        finally:
            self._measures.request(scope["path"], status, time.monotonic() - begun)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if not self._may(scope["method"], scope["path"], headers):
            await refuse(send, 401, "no valid key; send it as `Authorization: Bearer KEY`")
            return
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._max_body_bytes:
            await self._refuse_large(send)
            return
        parts: list[bytes] = []
        try:
            await self._pass_on(scope, receive, send, parts)
        finally:
            self._held_bytes -= sum(map(len, parts))

    async def _pass_on(
        self, scope: Scope, receive: Receive, send: Send, parts: list[bytes]
    ) -> None:
        """Let the application answer, once the whole body is in `parts`."""
        try:
            await asyncio.wait_for(self._read(receive, parts), self._read_timeout)
        except TimeoutError:
            await refuse(send, 408, f"the request did not come within {self._read_timeout:g} s")
            return
        except _TooLarge:
            await self._refuse_large(send)
            return
        except _TooMuch:
            busy = "the server holds as many requests as it can; try again in 1 s"
            await refuse(send, 429, busy, retry_after=1)
            return
        body = b"".join(parts)
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        await self._app(scope, replay, send)

    def _may(self, method: str, path: str, headers: dict[bytes, bytes]) -> bool:
        if self._key is None or path in OPEN_PATHS:
            return True
        if method in ("GET", "HEAD") and path in self._reads:
            return True
        sent = headers.get(b"authorization", b"")
        return hmac.compare_digest(sent, b"Bearer " + self._key.encode())

    async def _read(self, receive: Receive, parts: list[bytes]) -> None:
        """Put the body into `parts`, and count it."""
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            self._held_bytes += len(parts[-1])
            if size > self._max_body_bytes:
                raise _TooLarge
            if self._held_bytes > self._max_held_bytes:
                raise _TooMuch
            if not message.get("more_body", False):
                return

    async def _refuse_large(self, send: Send) -> None:
        await refuse(send, 413, f"the request is larger than {self._max_body_bytes} bytes")


class _TooLarge(Exception):
    """One request is too large."""


class _TooMuch(Exception):
    """All requests together are."""


async def refuse(send: Send, status: int, message: str, *, retry_after: int | None = None) -> None:
    """Send an error as every protocol of this server words it; the connection ends."""
    body = json.dumps(error_body(status, message)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if retry_after is not None:
        headers.append((b"retry-after", str(retry_after).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def error_body(status: int, message: str) -> dict[str, Any]:
    """The JSON of an error, as OpenAI's clients read it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "code": status}}
