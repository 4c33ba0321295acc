"""What a connection may do outside a request: its headers must come, and its answers be taken, within seconds."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

LOOK_S = 15.0
"""A connection that is found waiting twice in a row, this many seconds apart, is closed."""

MOST = 1_000
"""Connections at once; one more is answered 503 and closed."""


class TimedProtocol(H11Protocol):
    """uvicorn's protocol, which by itself waits for ever for the end of headers and for a client that does not read."""

    _look_again: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to look."""
        super().connection_made(transport)
        self._look_again = self.loop.call_later(LOOK_S, self._look, None, 0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        if self._look_again is not None:
            self._look_again.cancel()
        super().connection_lost(exc)

    def _look(self, before: object, unsent_before: int) -> None:
        """Close the connection if it waits between the same two requests as ``before``, and takes nothing meanwhile.

        A place between requests is named by the request before it; the connection itself is that before the first.
        """
        unsent = self.transport.get_write_buffer_size()
        waiting = self.cycle is None or self.cycle.response_complete
        now = (self.cycle or self) if waiting else None
        if waiting and now is before and (not unsent or unsent >= unsent_before):
            self.transport.abort()
            return
        self._look_again = self.loop.call_later(LOOK_S, self._look, now, unsent)
