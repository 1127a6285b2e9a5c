"""What one trial saw: how many cases, how each ended, and which ended as none may."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Failure:
    """A case that ended as none may. ``case`` makes it again, ``seen`` says what was seen."""

    case: str
    seen: str


@dataclass(frozen=True)
class Report:
    """One trial.

    Attributes:
        name: Of the trial, a row of ``TRIALS``.
        seed: All its random choices follow from it.
        asked: How many cases were asked for; fewer are in ``ended`` where the time was up.
        ended: How its cases ended and how many did: ``"valid result"``, ``"exit 2"``. A case that
            is in ``failures`` is counted here too, as what it was.
        failures: Those that ended as none may.
        seconds: Of all cases, by the clock.
        peak_mb: The most memory (resident) that a process of the trial held, in MB (10⁶ bytes).
    """

    name: str
    seed: int
    asked: int
    ended: Mapping[str, int]
    failures: Sequence[Failure]
    seconds: float
    peak_mb: float

    @property
    def cases(self) -> int:
        """How many were tried."""
        return sum(self.ended.values())


def write(report: Report, folder: Path) -> Path:
    """As ``<folder>/<name>.json``, which :func:`read` reads."""
    path = folder / f"{report.name.replace(' ', '-')}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n", "utf-8")
    temporary.replace(path)
    return path


def read(path: Path) -> Report:
    """The report that :func:`write` wrote."""
    values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    failures = [Failure(**failure) for failure in values.pop("failures")]
    return Report(failures=failures, **values)
