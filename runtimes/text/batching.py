"""Which texts go into one call: by length, within a token budget, padded only where it pays.

A call has a cost of its own (reading every weight once) and so has padding (its tokens are computed
like any others). Texts of neighbouring lengths are therefore joined as long as the padding that
comes with it costs less than a call would. A budget counts tokens, not rows: it bounds the memory
of the activations, and of a padded batch's attention (rows × longest² ≤ tokens × longest).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runtimes.profiles import Profile, largest_batch


@dataclass(frozen=True)
class Budget:
    """How large one call may be.

    ``tokens`` in one call, padding included; a longer text goes alone. ``call_tokens`` is what a
    call costs beside its tokens, in tokens. The defaults are for a CPU, measured in docs/decisions,
    "Scheduling": larger calls outgrow its caches and are slower. ``profiles`` are an engine's,
    which limit the rows by their length.
    """

    tokens: int = 512
    call_tokens: int = 32
    profiles: tuple[Profile, ...] = ()

    def holds(self, rows: int, longest: int) -> bool:
        """Whether one call takes so many rows of so many tokens."""
        if self.profiles and rows > largest_batch(self.profiles, longest):
            return False
        return rows * longest <= self.tokens


# A GPU wants far larger calls and pays for each one's launches. Not measured.
GPU = Budget(tokens=16384, call_tokens=256)


def schedule(lengths: Sequence[int], max_rows: int, budget: Budget) -> Iterator[list[int]]:
    """Indices of the texts of each call, longest first: what will not fit fails at once.

    Every index comes exactly once; ``max_rows`` is the graph's limit. The order within a call is
    that of falling length, so the plan depends on the lengths alone.
    """
    group: list[int] = []
    padding = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if group:
            longest, rows = lengths[group[0]], len(group) + 1
            padding += longest - lengths[index]
            full = rows > max_rows or not budget.holds(rows, longest)
            if full or padding > budget.call_tokens:
                yield group
                group, padding = [], 0
        group.append(index)
    if group:
        yield group
