"""The kinds of values that options carry: checked as far as the text alone tells."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from runtimes.arguments import expected_name
from runtimes.errors import shown

_MOST = 2**31 - 1
N = TypeVar("N", int, float)


def name(text: str) -> str:
    """A name that a file can have."""
    if not text:
        raise ArgumentTypeError("got '', expected a name")
    if (expected := expected_name(text)) is not None:
        raise ArgumentTypeError(f"got {shown(text)}, expected {expected}")
    return text


def names(text: str) -> tuple[str, ...]:
    """Names, separated by commas."""
    return tuple(name(item.strip()) for item in text.split(","))


def path(text: str) -> Path:
    """A file or folder."""
    return Path(name(text))


def paths(text: str) -> tuple[Path, ...]:
    """Files or folders, separated by commas."""
    return tuple(path(item.strip()) for item in text.split(","))


def whole(text: str) -> int:
    """A whole number that every library's 32 bits hold."""
    return _number(text, int, "a whole number")


def wholes(text: str) -> tuple[int, ...]:
    """Whole numbers, separated by commas."""
    return tuple(whole(item.strip()) for item in text.split(","))


def number(text: str) -> float:
    """A finite number; ``nan`` and ``inf`` are floats too."""
    return _number(text, float, "a number")


def port(text: str) -> int:
    """A TCP port."""
    value = whole(text)
    if not 1 <= value <= 65535:
        raise ArgumentTypeError(f"got {value}, expected 1 to 65535")
    return value


def size(text: str) -> int:
    """A number of bytes."""
    value = _number(text, int, "a number of bytes", 2**63 - 1)
    if value < 0:
        raise ArgumentTypeError(f"got {value}, expected 0 or more bytes")
    return value


def _number(text: str, kind: Callable[[str], N], expected: str, most: int = _MOST) -> N:
    try:
        value = kind(text)
    except ValueError as error:
        raise ArgumentTypeError(f"got {shown(text)}, expected {expected}") from error
    if not abs(value) <= most:
        raise ArgumentTypeError(f"got {shown(text)}, expected {expected} of at most {most}")
    return value
