"""What is mutated: a row for each kind, with how many cases it has in the full run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from tests.torture import command_lines
from tests.torture.mutations import bundles, calibrations, checkpoints
from tests.torture.mutations.bases import Bases
from tests.torture.mutations.judgement import Case
from tests.torture.mutations.places import Place


@dataclass(frozen=True)
class Kind:
    """``make`` writes the mutated files of one case and says what is called with them.

    ``full`` cases are in the full run, ``trial`` is the report's name.
    """

    name: str
    full: int
    make: Callable[[Random, Place, Bases], Case]

    @property
    def trial(self) -> str:
        """What the report of this kind is called."""
        return f"mutated {self.name}"


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("checkpoint", 1400, checkpoints.checkpoint),
        Kind("adapter", 1200, checkpoints.adapter),
        Kind("configuration", 1400, checkpoints.configuration),
        Kind("tokenizer", 1200, checkpoints.tokenizer),
        Kind("manifest", 1600, bundles.manifest),
        Kind("graph", 1400, bundles.graph),
        Kind("bundle-data", 1000, bundles.data),
        Kind("calibration", 800, calibrations.calibration),
        Kind("command-line", 2000, command_lines.command_line),
    )
}


def wanted(count: int | None, kinds: Sequence[str]) -> dict[str, int]:
    """How many cases of each of ``kinds``, in the full run's proportions; None: the full run's."""
    total = sum(KINDS[name].full for name in kinds)
    share = 1.0 if count is None else count / total
    return {name: round(share * KINDS[name].full) for name in kinds}


def order(counts: dict[str, int], seed: int) -> Iterator[tuple[str, int]]:
    """Every case once, kinds mixed, so that a run that was stopped has seen some of each."""
    cases = [(name, number) for name, count in counts.items() for number in range(count)]
    Random(seed).shuffle(cases)
    yield from cases
