"""SIGINT and SIGTERM wait while something is half made that nobody could clear away."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_ENDING = (signal.SIGINT, signal.SIGTERM)


class Hold:
    """What holds signals back; :func:`held_back` makes it."""

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._came: list[int] = []

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """A block in which they come as always, one that waited at once.

        What it raises passes through the blocks around it, which clear away what they made.
        """
        try:
            self._let()
            yield
        finally:
            self._hold()

    def _hold(self) -> None:
        """Only what would run Python's code can wait; no other thread may change handlers."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _ENDING:
            handler = signal.getsignal(number)
            if callable(handler) and handler != self._note:
                self._handlers[number] = handler
                signal.signal(number, self._note)

    def _let(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        handlers, self._handlers = self._handlers, {}
        came, self._came = self._came, []
        for number in came[:1]:  # a second one says nothing more
            handlers[number](number, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came.append(number)


@contextmanager
def held_back() -> Iterator[Hold]:
    """SIGINT and SIGTERM that come in the block come at its end, or in :meth:`Hold.allowed`."""
    hold = Hold()
    hold._hold()
    try:
        yield hold
    finally:
        hold._let()
