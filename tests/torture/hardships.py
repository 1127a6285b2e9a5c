"""All conditions that commands are tried in, one after the other."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.torture.conditions import CONDITIONS, Place
from tests.torture.report import Report
from tests.torture.shells import CONDITIONS as SHELLS

Condition = Callable[[Place, int], None]
ALL: tuple[Condition, ...] = (*CONDITIONS, *SHELLS)


def conditions(count: int, seed: int, folder: Path, *, chosen: Sequence[Condition] = ALL) -> Report:
    """The ``chosen`` ones; those with random sizes are tried ``count`` times."""
    start = time.monotonic()
    place = Place(folder, random.Random(seed))
    for condition in chosen:
        condition(place, count)
    return Report(
        name="conditions",
        seed=seed,
        asked=sum(place.ended.values()),
        ended=dict(sorted(place.ended.items())),
        failures=place.failures,
        seconds=round(time.monotonic() - start, 1),
        peak_mb=round(place.peak_mb),
    )
