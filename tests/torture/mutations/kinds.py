"""What is mutated: a row for each kind, with its part of all cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.torture.mutations import checkpoints
from tests.torture.mutations.bases import Bases
from tests.torture.mutations.judgement import Case
from tests.torture.mutations.places import Place


@dataclass(frozen=True)
class Kind:
    """``make`` writes the mutated files of one case and says what is called with them.

    ``share`` is this kind's part of all cases, in hundredths.
    """

    name: str
    share: int
    make: Callable[[Random, Place, Bases], Case]


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("checkpoint", 14, checkpoints.checkpoint),
        Kind("adapter", 12, checkpoints.adapter),
        Kind("configuration", 14, checkpoints.configuration),
        Kind("tokenizer", 12, checkpoints.tokenizer),
    )
}
