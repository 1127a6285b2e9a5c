"""HTTP as uvicorn reads it, with limits on what a client may send before anybody looks at it."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 << 10  # bytes of a request's line and headers
HEAD_SECONDS = 10.0  # until they must be there, and for what is left of a body that is not wanted


class GuardedProtocol(HttpToolsProtocol):
    """Ends connections whose client is too slow to ask, or asks with too many bytes.

    While a handler runs, it has limits of its own. Before it begins, and after it has answered
    without reading the whole body, nobody else would notice.
    """

    head_seconds = HEAD_SECONDS
    _guard: asyncio.TimerHandle | None = None
    _head = 0
    _in_head = True
    _in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request is due."""
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._relax()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes before a request is known."""
        if self._in_head:
            self._head += len(data)
            # These bytes may hold the head's end, and then most of them are the body.
            if self._head > MAX_HEAD and b"\r\n\r\n" not in data:
                self.send_400_response("Request headers are too large.")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._in_body = True, False
        self._watch()

    def on_headers_complete(self) -> None:
        """Its handler takes over."""
        self._relax()
        self._head, self._in_head, self._in_body = 0, False, True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """All of it is there."""
        self._in_head, self._in_body = True, False
        if self.cycle is not None and self.cycle.response_complete:
            self._relax()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Answered; where the body still comes, not for ever."""
        super().on_response_complete()
        if self._in_body:
            self._watch()

    def _watch(self) -> None:
        self._relax()
        self._guard = self.loop.call_later(self.head_seconds, self._give_up)

    def _relax(self) -> None:
        if self._guard is not None:
            self._guard.cancel()
            self._guard = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


def guarded(seconds: float) -> type[GuardedProtocol]:
    """The protocol of a server whose deadline may be shorter than the time for a head."""

    class Guarded(GuardedProtocol):
        head_seconds = min(HEAD_SECONDS, seconds)

    return Guarded
