"""The error tree. Every message says what was wrong, what was got, what was expected, what to do.

AdaptrtError            exit code 1: a build step failed
├── InputError          exit code 2: a checkpoint, option, text or bundle is not usable as given
├── GateError           exit code 3: vectors are not close enough, or a compiled plan breaks a rule
├── MissingError        exit code 4: hardware or a library that this needs is not there
└── IndexMismatchError  exit code 6: vectors of a bundle and of an index do not belong together
"""

from __future__ import annotations


class AdaptrtError(Exception):
    """A build step failed; the root of every error this project raises on purpose."""

    exit_code = 1


class InputError(AdaptrtError):
    """Something the user gave cannot be used; nothing was written."""

    exit_code = 2


class GateError(AdaptrtError):
    """The gate or a plan's rule failed or a bundle's contents changed; nothing was published."""

    exit_code = 3


class MissingError(AdaptrtError):
    """A GPU, a driver or a library is not there."""

    exit_code = 4


class IndexMismatchError(AdaptrtError):
    """A bundle, or a server, and an index do not belong together; nothing was opened."""

    exit_code = 6


_SHOWN = 120  # characters of one value in a message


def shown(value: object, limit: int = _SHOWN) -> str:
    """A value from outside as a message may show it: ``repr``, escaped and shortened.

    Names and numbers of a checkpoint can hold line breaks and terminal escapes, and can be
    megabytes long.
    """
    try:
        text = ascii(value) if isinstance(value, bytes) else repr(value)
    except ValueError:  # an integer of more digits than Python converts
        text = f"a number of {type(value).__name__} with thousands of digits"
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    text = one_line(text)
    return text if len(text) <= limit else f"{text[: limit - 1]}… ({len(text)} characters)"


def one_line(text: str) -> str:
    """The text with everything that is not printable escaped: line breaks, control characters,
    lone surrogates, and marks that reorder what a terminal shows.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
