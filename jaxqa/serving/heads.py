"""Connections without a request: late ones are left, and a server that stops waits for the others.

uvicorn alone would keep the late for ever, and when it stops reset whoever is about to ask.
"""

import asyncio
import selectors
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

_LAST_HEAD = 1.0
"""Seconds that a stopping server gives a connection to send the head of its first request."""

_LAST_TURNS = 1000
"""Turns of the loop for those who have connected; more may come for ever."""


class Draining(uvicorn.Server):
    """A server that, before it stops listening, takes in who has connected already."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn's, which closes the listening sockets: what waits in them would be reset."""
        with selectors.DefaultSelector() as listening:
            for one in (one for server in self.servers for one in server.sockets):
                listening.register(one, selectors.EVENT_READ)
            for _ in range(_LAST_TURNS):
                await asyncio.sleep(0)  # the loop accepts
                if not listening.select(0):
                    break
        await super().shutdown(sockets)


def punctual(seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol for clients that send a request's head within `seconds`; others are left.

    The time of the body is the guard's, see `guard`; that of idle connections is uvicorn's.
    """

    class Punctual(H11Protocol):
        """Closes a connection that is late."""

        _late: Any = None  # a handle of asyncio or uvloop, whose classes differ
        _stopping = False

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._await_head(seconds)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
                self.cycle.keep_alive &= not self._stopping
            elif self._late is None:
                self._await_head(seconds)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def shutdown(self) -> None:
            self._stopping = True
            if self.cycle is not None:
                super().shutdown()
            else:  # its first request is on its way
                self._stop()
                self._await_head(min(seconds, _LAST_HEAD))

        def _await_head(self, limit: float) -> None:
            self._late = self.loop.call_later(limit, self.transport.close)

        def _stop(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return Punctual
