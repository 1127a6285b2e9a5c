"""Panics of a library in Rust, without what it prints of them.

Such a library prints a panic, with its stack where ``RUST_BACKTRACE`` is set, on the process's
standard error before Python gets the exception, and nothing in Python can tell it not to.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO

_STDERR = 2
_PRINTED = re.compile(rb"(?:\n)?thread '[^\n]*panicked at .*\Z", re.DOTALL)
_one_at_a_time = threading.RLock()


@contextmanager
def panics_unprinted() -> Iterator[None]:
    """The block raises what a panic raises, and standard error has nothing of it.

    For moments: until the block ends, what others print there waits; what they print after the
    panic is lost. Outside Linux nothing is held back.
    """
    if sys.platform != "linux":
        yield
        return
    with _one_at_a_time, FileIO(os.memfd_create("stderr"), "r+") as held:
        try:
            kept = os.dup(_STDERR)
        except OSError:  # closed: nothing can be printed
            yield
            return
        os.dup2(held.fileno(), _STDERR)
        panicked = True
        try:
            yield
            panicked = False
        finally:
            os.dup2(kept, _STDERR)
            os.close(kept)
            _print_others(held, panicked=panicked)


def _print_others(held: FileIO, *, panicked: bool) -> None:
    held.seek(0)
    content = held.readall()
    if panicked:
        content = _PRINTED.sub(b"", content)
    if content:
        os.write(_STDERR, content)
