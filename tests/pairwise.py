"""Few rows of a large table of combinations that still show every feature the table has."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import combinations
from typing import TypeVar

Row = TypeVar("Row")
Features = frozenset[Hashable]


def pairs(values: Sequence[str]) -> Features:
    """Every two values of a combination, each with the place it stands in."""
    return frozenset(combinations(enumerate(values), 2))


def cover(rows: Sequence[Row], features: Callable[[Row], Features]) -> list[Row]:
    """Rows that have every feature of ``rows``, none of them superfluous; the same every time.

    Greedy: the next row is the first of those with most features that are missing still. A row
    whose features the later ones have too is left out again.
    """
    missing = {feature for row in rows for feature in features(row)}
    chosen: list[Row] = []
    while missing:
        best = max(rows, key=lambda row: len(features(row) & missing))
        chosen.append(best)
        missing -= features(best)
    for row in list(chosen):
        others: Features = frozenset().union(*(features(r) for r in chosen if r is not row))
        if features(row) <= others:
            chosen.remove(row)
    return chosen
