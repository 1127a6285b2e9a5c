"""Optimisation profiles: the ranges of shapes an engine was built for, and which one to use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

_Side = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Shape = tuple[_Side, _Side]  # (batch, tokens)
DEFAULT = "default"  # the one profile of an engine without named ones


@dataclass(frozen=True, kw_only=True)
class Profile:
    """(batch, tokens) at least, at best (kernels are tuned for it) and at most."""

    name: str
    min: Shape
    opt: Shape
    max: Shape

    def holds(self, batch: int, tokens: int) -> bool:
        """Whether a batch of this shape may run."""
        return self.min[0] <= batch <= self.max[0] and self.min[1] <= tokens <= self.max[1]

    def __str__(self) -> str:
        (b0, t0), (b1, t1) = self.min, self.max
        return f"{self.name} (batch {b0}–{b1} × {t0}–{t1} tokens)"


def choose(profiles: Sequence[Profile], batch: int, tokens: int) -> int | None:
    """The index of the tightest profile that holds the shape; None where none does.

    Tightest is the smallest greatest batch × tokens: its kernels were tuned nearest the shape.
    """
    fitting = [i for i, profile in enumerate(profiles) if profile.holds(batch, tokens)]
    return min(fitting, key=lambda i: profiles[i].max[0] * profiles[i].max[1], default=None)


def largest_batch(profiles: Sequence[Profile], tokens: int) -> int:
    """How many rows of so many tokens one call may take; 0 where no profile takes the length."""
    rows = [p.max[0] for p in profiles if p.min[1] <= tokens <= p.max[1]]
    return max(rows, default=0)
