"""Which texts go into one call: by length, within a token budget, padded only where it pays.

A call has a cost of its own: reading every weight once. Padding has one too: the padded tokens are
computed like any others. Lengths are therefore joined as long as the padding that comes with it
costs less than a call would (``CALL_TOKENS``), and never where the quadratic memory of masked
attention would be felt (``PAD_LIMIT``): above it only texts of equal length share a call. The
figures behind the constants are in DESIGN.md, "Scheduling".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BATCH_TOKENS = 4096  # in one call, padding included; bounds the activations' memory
CALL_TOKENS = 64  # what one call costs beside its tokens, in tokens
PAD_LIMIT = 512  # the longest text that is padded, or that others are padded to


@dataclass(frozen=True)
class Budget:
    """How large one call may be.

    ``tokens`` counts padding and gives way to a single longer text; ``rows`` is the graph's limit.
    """

    rows: int
    tokens: int = BATCH_TOKENS
    call_tokens: int = CALL_TOKENS
    pad_limit: int = PAD_LIMIT


def schedule(lengths: Sequence[int], budget: Budget) -> Iterator[list[int]]:
    """Indices of the texts of each call, longest first: what will not fit fails at once.

    Every index comes exactly once. The order within a call is that of falling length, so that the
    result depends on the lengths alone.
    """
    group: list[int] = []
    padding = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if group:
            longest = lengths[group[0]]
            padding += longest - lengths[index]
            if _full(group, longest, budget) or _wasteful(padding, longest, budget):
                yield group
                group, padding = [], 0
        group.append(index)
    if group:
        yield group


def _full(group: Sequence[int], longest: int, budget: Budget) -> bool:
    """Whether one row more would pass the budget."""
    rows = len(group) + 1
    return rows > budget.rows or rows * longest > budget.tokens


def _wasteful(padding: int, longest: int, budget: Budget) -> bool:
    """Whether the group's padding costs more than another call, or is not allowed at all."""
    return padding > (budget.call_tokens if longest <= budget.pad_limit else 0)
