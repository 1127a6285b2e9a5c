"""The trials: a row for each, with how many cases it has when asked for nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.torture.report import Report


@dataclass(frozen=True)
class Trial:
    """``run(count, seed, folder)`` writes below ``folder`` alone, which is empty and its own.

    ``option`` is the command's option that says how many cases: ``"kills"`` for ``--kills``.
    """

    name: str
    option: str
    run: Callable[[int, int, Path], Report]


TRIALS: tuple[Trial, ...] = ()
