"""SIGTERM, with which containers and job queues end a command, ends it as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came. Wherever Ctrl-C is thought of, this is too."""


@contextmanager
def raised_on_sigterm() -> Iterator[None]:
    """:class:`Terminated` in the block, once, where nobody else answers the signal.

    Without it the process would be gone at once and leave what it had staged.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would end the clearing away
    raise Terminated
