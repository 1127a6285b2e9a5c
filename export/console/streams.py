"""Standard output and error of a command: closed, full, or with a reader that went away."""

from __future__ import annotations

import io
import os
import sys
import warnings
from contextlib import suppress
from typing import TextIO

from runtimes.errors import one_line


def prepare() -> None:
    """Before anything is opened: numbers 0 to 2 are taken, and nothing printed can fail to encode.

    Where a stream was closed by the caller, its number would go to the next file that is opened,
    and a library's message into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if sys.stderr is None:  # else print() would use standard output
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - for the process's life
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.showwarning = _print_warning


def complain(text: str) -> None:
    """One printable line on standard error, whatever ``text`` holds and if it can be written."""
    with suppress(OSError):
        print(one_line(text), file=sys.stderr)


def give_up_unwritable() -> None:
    """Forget what cannot be written, else the interpreter complains about it when it ends."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                with open(os.devnull, "w") as nowhere:  # noqa: PTH123
                    os.dup2(nowhere.fileno(), stream.fileno())


def _print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """One line on standard error, without the place in our code that gave it."""
    complain(f"warning: {message}")
