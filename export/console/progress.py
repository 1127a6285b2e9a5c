"""What a command is doing: a line per stage with its time, and bars on a terminal.

Lines go to the logger ``adaptrt``; the command line shows them on standard error, how many its
``--quiet`` and ``--verbose`` say. Bars are shown where lines are; a log has none, so there a long
stage says now and then that it is still at work.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from export.console.streams import complain

T = TypeVar("T")
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


def bars_shown() -> bool:
    """Whether standard error is a terminal, and shows more than warnings."""
    return sys.stderr.isatty() and log.isEnabledFor(logging.INFO)


def progress_bar(items: Iterable[T], description: str, unit: str) -> Iterable[T]:
    """The items, with a bar that moves as they are taken; where bars are not shown, as they are."""
    if not bars_shown():
        return items
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(items, description, unit=unit, leave=False)
    return bar


@contextmanager
def work_bar(total: float, done: float, description: str) -> Iterator[Callable[[float], None]]:
    """A bar over work in any unit, ``done`` of it before; gives what to call with each more.

    A share and the time that is left; nothing where bars are not shown.
    """
    if not bars_shown():
        yield lambda _: None
        return
    from tqdm import tqdm

    layout = "{desc} {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left{postfix}"
    with tqdm(total=total, initial=done, desc=description, leave=False, bar_format=layout) as bar:
        yield lambda amount: _advance(bar, amount)


def _advance(bar: Any, amount: float) -> None:
    bar.update(amount)


def show_on_stderr(*, quiet: bool = False, verbose: bool = False) -> None:
    """Print the logger's lines on standard error, whatever that is at the time of each line.

    ``quiet`` leaves warnings, ``verbose`` adds what a developer asks for.
    """
    if not log.handlers:
        log.addHandler(_Stderr())
    log.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)


class _Stderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        for line in self.format(record).split("\n"):
            complain(line)


def _signs_of_life(name: str, start: float, ended: threading.Event) -> None:
    while not ended.wait(STILL):
        log.info("  %-32s %6.0f s so far", name, time.perf_counter() - start)
