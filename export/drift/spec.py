"""What ``adaptrt drift`` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DriftSpec:
    """What is compared. ``texts`` empty: the gate's; ``lengths`` in tokens."""

    bundle: Path
    texts: tuple[str, ...] = ()
    task: str | None = None
    reference: str | None = None
    revision: str | None = None
    lengths: tuple[int, ...] | None = None
