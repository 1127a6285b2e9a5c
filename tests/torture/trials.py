"""The trials: a row for each, with how many cases it has when asked for nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.torture.embedder import CASES
from tests.torture.embedders import TARGETS, embedders
from tests.torture.kills import kills, signals
from tests.torture.report import Report


@dataclass(frozen=True)
class Trial:
    """``run(count, seed, folder)`` writes below ``folder`` alone, which is empty and its own.

    ``option`` is the command's option that says how many cases, ``"kills"`` for ``--kills``;
    ``count`` is how many there are without it. With ``rounds`` it counts rounds of so many cases.
    """

    name: str
    option: str
    count: int
    run: Callable[[int, int, Path], Report]
    rounds: int = 1

    def cases(self, count: int) -> int:
        """How many a report of so many rounds was asked for."""
        return count * self.rounds


TRIALS = (
    Trial("kills", "kills", 200, kills),
    Trial("signals", "signals", 60, signals),
    Trial("embedder", "embedder-rounds", 1, embedders, rounds=len(CASES) * len(TARGETS)),
)
