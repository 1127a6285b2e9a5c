"""SIGTERM, with which containers and job queues end a command, ends it as Ctrl-C does."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_SOON = 0.02  # seconds; a destructor takes less


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
    former = sys.unraisablehook
    sys.unraisablehook = partial(_send_again, former)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.unraisablehook = former


def _send_again(former: Callable[[UnraisableHookArgs], object], lost: UnraisableHookArgs) -> None:
    """What a signal raises in a destructor is printed and forgotten: it is sent once more."""
    if not isinstance(lost.exc_value, KeyboardInterrupt):
        former(lost)
        return
    number = signal.SIGINT
    if isinstance(lost.exc_value, Terminated):
        number = signal.SIGTERM
        signal.signal(number, _raise)
    sender = threading.Timer(_SOON, os.kill, (os.getpid(), number))
    sender.daemon = True
    sender.start()


def _raise(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would end the clearing away
    raise Terminated
