"""The error tree. Every message says what was wrong, what was got, what was expected, what to do.

AdaptrtError            exit code 1: a build step failed
├── InputError          exit code 2: a checkpoint, option, text or bundle is not usable as given
├── GateError           exit code 3: the result is not close enough to the reference
└── MissingError        exit code 4: hardware or a library that this needs is not there
"""

from __future__ import annotations


class AdaptrtError(Exception):
    """A build step failed; the root of every error this project raises on purpose."""

    exit_code = 1


class InputError(AdaptrtError):
    """Something the user gave cannot be used; nothing was written."""

    exit_code = 2


class GateError(AdaptrtError):
    """The parity gate failed or a bundle's contents changed; nothing was published."""

    exit_code = 3


class MissingError(AdaptrtError):
    """A GPU, a driver or a library is not there."""

    exit_code = 4
