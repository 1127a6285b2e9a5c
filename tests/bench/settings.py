"""Numbers in pages that look like figures and are none: settings, limits, sizes of a design.

What no rule of :mod:`tests.bench.unbound` tells is named here, with the reason. A row that no page
needs is reported.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """A pattern that holds the number and words beside it, on pages that match another."""

    page: str
    pattern: str
    why: str
    cells: bool = False  # of whole cells of tables


SETTINGS: tuple[Setting, ...] = ()
