"""One kind's cases as a trial: a worker in a process of its own, and its results as a report."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tests.torture.mutations.kinds import KINDS
from tests.torture.mutations.results import Result, done
from tests.torture.report import Failure, Report

_ROOT = Path(__file__).parents[3]


def mutations(kind: str, count: int, seed: int, folder: Path) -> Report:
    """``count`` cases of one kind; those that ended as none may are still in ``folder``."""
    work(folder, "--seed", str(seed), "--kind", kind, "--count", str(count))
    return report_of(kind, count, seed, done(folder, seed))


def work(folder: Path, *options: str) -> None:
    """Run a worker to its end."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.torture.mutations.worker", str(folder), *options]
    subprocess.run(command, cwd=_ROOT, env=os.environ | {"PYTHONPATH": str(_ROOT)}, check=True)


def report_of(
    kind: str, count: int, seed: int, results: Mapping[tuple[str, int], Result]
) -> Report:
    """What is known of a kind's cases."""
    found = [result for (name, _), result in sorted(results.items()) if name == kind]
    return Report(
        name=KINDS[kind].trial,
        seed=seed,
        asked=count,
        ended=dict(Counter(result.ended for result in found).most_common()),
        failures=[Failure(f"{kind} {r.number}", r.seen) for r in found if r.seen is not None],
        seconds=round(sum(result.seconds for result in found), 1),
        peak_mb=max((result.peak_mb for result in found), default=0.0),
    )
