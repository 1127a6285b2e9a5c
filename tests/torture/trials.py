"""The trials: a row for each, with how many cases it has when asked for nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.torture.embedders import embedders
from tests.torture.hardships import conditions
from tests.torture.kills import kills, signals
from tests.torture.mutations.kinds import KINDS
from tests.torture.mutations.trial import mutations
from tests.torture.report import Report


@dataclass(frozen=True)
class Trial:
    """``run(count, seed, folder)`` writes below ``folder`` alone, which is empty and its own.

    ``option`` is the command's option that says how many cases, ``"kills"`` for ``--kills``, or
    with ``rounds`` how many rounds of all its cases; ``count`` is what it is without the option.
    Reports that are ``kept`` are taken as they are, whatever their count.
    """

    name: str
    option: str
    count: int
    run: Callable[[int, int, Path], Report]
    rounds: bool = False
    kept: bool = False


TRIALS = (
    Trial("kills", "kills", 200, kills),
    Trial("signals", "signals", 60, signals),
    Trial("conditions", "condition-rounds", 4, conditions, rounds=True),
    Trial("embedder", "embedder-rounds", 1, embedders, rounds=True),
    *(
        Trial(k.trial, f"{k.name}-cases", k.full, partial(mutations, k.name), kept=True)
        for k in KINDS.values()
    ),
)
