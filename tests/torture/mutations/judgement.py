"""Whether a process ended as it may: a valid result, or one line with a documented exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.console.failures import EXIT_CODES, INTERNAL, INTERRUPTED
from runtimes.errors import IndexMismatchError
from tests.torture.mutations.forked import Ended, Limits
from tests.torture.mutations.places import Listing, Place, differences, listing

Vectors = NDArray[np.float32]
_SAME = 1e-4  # of one number of a unit vector; another order of additions gives 1e-6
_MOST_SEEN = 1500  # characters that a report says of one failure
# What may stand on standard error besides the error's line, with --quiet.
_HARMLESS = ("warning: ", "listening on http://")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A call of the command.

    ``what`` says in words what was mutated. ``check`` looks at a result of exit code 0 and says
    what is wrong with it, or None. ``vectors`` are those of the unmutated bundle, which an
    ``encode`` that succeeds has to give again; with ``repaired`` hashes nothing can tell the files
    from those of another build, so other vectors are only counted. ``finds`` says of other vectors
    by which command the change is found; None: by none, which is a failure. A success may write
    ``anywhere`` in the case's folders where the command line itself is mutated.
    """

    argv: tuple[str, ...]
    what: str
    check: Callable[[], str | None] = lambda: None
    vectors: Vectors | None = None
    repaired: bool = False
    finds: Callable[[], str | None] = lambda: None
    limits: Limits = field(default_factory=Limits)
    anywhere: bool = False


@dataclass(frozen=True)
class Verdict:
    """``ended`` is a short name to count by; ``seen`` what may not be, None where all is well."""

    ended: str
    seen: str | None = None


@dataclass(frozen=True)
class Before:
    """What a case's folders held before its process ran."""

    input: Listing
    out: Listing

    @classmethod
    def of(cls, place: Place) -> Before:
        """Now."""
        return cls(listing(place.input), listing(place.out))


def judge(case: Case, ended: Ended, place: Place, before: Before) -> Verdict:
    """The verdict on one case."""
    name = _name(ended)
    for look in (_violent_end, _wrong_lines, _too_large, _stray):
        if (seen := look(case, ended, place, before)) is not None:
            return Verdict(name, _described(case, ended, seen))
    if ended.code != 0:
        return Verdict(name)
    if (seen := case.check()) is not None:
        return Verdict(name, _described(case, ended, seen))
    return _judge_vectors(case, ended)


def _name(ended: Ended) -> str:
    if ended.hung:
        return "hang"
    if ended.signal is not None:
        return f"signal {ended.signal}"
    return "valid result" if ended.code == 0 else f"exit {ended.code}"


def _violent_end(case: Case, ended: Ended, place: Place, before: Before) -> str | None:
    if ended.hung:
        return f"no end after {ended.seconds:.0f} s"
    if ended.signal is not None:
        return f"ended by signal {ended.signal}"
    if ended.code not in EXIT_CODES:
        return f"exit code {ended.code}, which is not documented"
    return "an internal error" if ended.code == INTERNAL else None


def _wrong_lines(case: Case, ended: Ended, place: Place, before: Before) -> str | None:
    if "Traceback (most recent call last)" in ended.err + ended.out.decode("utf-8", "replace"):
        return "a traceback"
    lines = ended.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    others = [line for line in lines if not line.startswith((*_HARMLESS, "error: "))]
    if ended.code == INTERRUPTED:
        return None if others else "interrupted, and no line says so"
    if others and "--quiet" in case.argv:
        return f"a line of another form on standard error: {others[0][:200]!r}"
    allowed = {1}
    if ended.code == 0:
        allowed = {0}
    elif ended.code == IndexMismatchError.exit_code:  # what differs is the command's output
        allowed = {0, 1}
    if len(errors) not in allowed:
        return f"{len(errors)} lines of an error with exit code {ended.code}"
    return None


def _too_large(case: Case, ended: Ended, place: Place, before: Before) -> str | None:
    if ended.peak_mb > case.limits.peak_mb:
        return f"{ended.peak_mb:.0f} MB of memory, expected at most {case.limits.peak_mb:.0f}"
    if ended.code != 0 and "out of memory" in ended.err:
        return "asked for more memory than it may have"
    return None


def _stray(case: Case, ended: Ended, place: Place, before: Before) -> str | None:
    free = case.anywhere and ended.code == 0
    if not free and (found := differences(before.input, listing(place.input))):
        return f"in what it was given: {_few(found)}"
    for name, folder in place.idle.items():
        if (name == "tmp" or not free) and (found := differences({}, listing(folder))):
            return f"in its {name}: {_few(found)}"
    after = listing(place.out)
    if ended.code != 0 and (found := differences(before.out, after)):
        return f"a failure, and in its output: {_few(found)}"
    hidden = [path for path in after if Path(path).name.startswith(".")]
    return f"left behind: {_few(hidden)}" if hidden else None


def _judge_vectors(case: Case, ended: Ended) -> Verdict:
    if case.vectors is None:
        return Verdict("valid result")
    try:
        given = read_vectors(ended.out)
    except (ValueError, KeyError, TypeError) as error:
        return Verdict("valid result", _described(case, ended, f"no vectors printed: {error}"))
    same = given.shape == case.vectors.shape and np.allclose(given, case.vectors, atol=_SAME)
    if same:
        return Verdict("valid result")
    if case.repaired:
        return Verdict("other vectors, hashes repaired")
    if (by := case.finds()) is not None:
        return Verdict(f"other vectors, which {by} finds")
    return Verdict("wrong in silence", _described(case, ended, "other vectors, in silence"))


def read_vectors(out: bytes) -> Vectors:
    """What ``adaptrt encode`` printed, ``[texts, dimensions]``."""
    rows = [json.loads(line)["embedding"] for line in out.splitlines()]
    if not rows:
        raise ValueError("nothing was printed")
    return np.asarray(rows, np.float32)


def _few(lines: Sequence[str]) -> str:
    more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
    return ", ".join(lines[:3]) + more


def _described(case: Case, ended: Ended, seen: str) -> str:
    command = " ".join(argument[:80] for argument in case.argv)
    text = f"{seen}; {case.what}; adaptrt {command[:400]}; stderr: {ended.err[-500:]}"
    return text.encode("utf-8", "backslashreplace").decode()[:_MOST_SEEN]
