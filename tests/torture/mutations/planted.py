"""Defects that the judgement must see: ``python -m tests.torture.mutations.planted FOLDER``.

A process of its own, because it forks; it prints the verdict on each as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from tests.torture.mutations.forked import Limits, run_forked
from tests.torture.mutations.judgement import Before, Case, Verdict, judge
from tests.torture.mutations.places import Place

_RIGHT = np.array([[0.6, 0.8]], np.float32)
_LIMITS = Limits(seconds=60.0, peak_mb=200.0)


def _print_vector(*numbers: float) -> int:
    print(json.dumps({"text": "x", "embedding": numbers}))
    return 0


def _refuse(code: int = 2, line: str = "error: no such file") -> int:
    print(line, file=sys.stderr)
    return code


def _escape() -> int:
    raise ValueError("planted")


def _sleep() -> int:
    time.sleep(60)
    return 0


def _hoard() -> int:
    held = np.ones(30_000_000, np.float64)
    return int(held[0]) - 1


def _write(path: Path) -> int:
    path.write_text("stray")
    return _refuse()


def _end_by(number: int) -> int:
    os.kill(os.getpid(), number)
    return 0


def _defects(place: Place) -> dict[str, Callable[[], int]]:
    """What the process does, by what the verdict must say; ``""`` for two that are as they may."""
    given = place.input / "bundle.json"
    given.write_text("whole")
    return {
        "": lambda: _print_vector(0.6, 0.8),
        " ": _refuse,
        "a traceback": lambda: _refuse(line="Traceback (most recent call last):\nerror: x"),
        "is not documented": _escape,
        "an internal error": lambda: _refuse(5),
        "no end after": _sleep,
        "MB of memory": _hoard,
        "asked for more memory": lambda: _refuse(1, "error: out of memory: 9 GB"),
        "other vectors, in silence": lambda: _print_vector(0.8, 0.6),
        "no vectors printed": lambda: 0,
        "in its cwd: stray appeared": lambda: _write(Path("stray")),
        "in its tmp: stray appeared": lambda: _write(Path(os.environ["TMPDIR"]) / "stray"),
        "in its output: .staging appeared": lambda: _write(place.out / ".staging"),
        "in what it was given: bundle.json changed": lambda: _write(given),
        "ended by signal 11": lambda: _end_by(signal.SIGSEGV),
        "2 lines of an error": lambda: _refuse(line="error: one\nerror: two"),
        "0 lines of an error": lambda: _refuse(line="warning: nothing"),
        "a line of another form": lambda: _refuse(line="note: RUST_BACKTRACE\nerror: x"),
    }


def main() -> None:
    folder = Path(sys.argv[1])
    found: dict[str, Verdict] = {}
    for name in _defects(Place.fresh(folder / "names")):
        place = Place.fresh(folder / "case")
        defect = _defects(place)[name]

        def call(argv: Sequence[str], defect: Callable[[], int] = defect) -> int:
            return defect()

        limits = Limits(seconds=0.3) if defect is _sleep else _LIMITS
        case = Case(argv=("--quiet",), what="planted", vectors=_RIGHT, limits=limits)
        before = Before.of(place)
        found[name] = judge(case, run_forked(call, case.argv, place, limits), place, before)
    print(json.dumps({name: asdict(verdict) for name, verdict in found.items()}))


if __name__ == "__main__":
    main()
