"""What a build is doing: a line per stage with its time.

Lines go to the logger ``adaptrt``; the command line shows them on standard error. A terminal has
bars too (tqdm); a log has none, so there a long stage says now and then that it is still at work.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from export.console.streams import complain

log = logging.getLogger("adaptrt")
SHORT = 1.0  # seconds; a shorter stage needs no line
STILL = 30.0  # seconds between signs of life


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time the block; nothing is said of one that fails, whose error says more."""
    start = time.perf_counter()
    ended = threading.Event()
    if not sys.stderr.isatty():
        threading.Thread(target=_signs_of_life, args=(name, start, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
    seconds = time.perf_counter() - start
    log.log(logging.INFO if seconds >= SHORT else logging.DEBUG, "  %-32s %6.1f s", name, seconds)


def show_on_stderr(level: int = logging.INFO) -> None:
    """Print the logger's lines on standard error, whatever that is at the time of each line."""
    if not log.handlers:
        log.addHandler(_Stderr())
    log.setLevel(level)


class _Stderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        for line in self.format(record).split("\n"):
            complain(line)


def _signs_of_life(name: str, start: float, ended: threading.Event) -> None:
    while not ended.wait(STILL):
        log.info("  %-32s %6.0f s so far", name, time.perf_counter() - start)
