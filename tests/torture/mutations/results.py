"""What was seen of each case, in files that grow by a line a case."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Result:
    """One case: ``ended`` as reports count it, ``seen`` where it ended as none may.

    ``seconds`` are by the clock, ``cpu`` those of its process's own work.
    """

    kind: str
    number: int
    ended: str
    seen: str | None
    seconds: float
    cpu: float
    peak_mb: float


def done(folder: Path, seed: int) -> dict[tuple[str, int], Result]:
    """What the workers of this seed have found so far, by kind and number; the last of each."""
    found: dict[tuple[str, int], Result] = {}
    paths = folder.glob(f"results-{seed}.*.jsonl")
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns):
        for line in path.read_text("utf-8").splitlines():
            with suppress(ValueError):  # the last line of a worker that was killed
                result = Result(**json.loads(line))
                found[result.kind, result.number] = result
    return found
