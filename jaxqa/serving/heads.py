"""Connections whose request does not begin in time; uvicorn alone would keep them for ever."""

from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def punctual(seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol for clients that send a request's head within `seconds`; others are left.

    The time of the body is the guard's, see `guard`; that of idle connections is uvicorn's.
    """

    class Punctual(H11Protocol):
        """Closes a connection that is late."""

        _late: Any = None  # a handle of asyncio or uvloop, whose classes differ

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._await_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
            elif self._late is None:
                self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _await_head(self) -> None:
            self._late = self.loop.call_later(seconds, self.transport.close)

        def _stop(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return Punctual
