"""Steps that cannot harm each other: a process each, with a limit of time.

The standard library alone, so that it runs on any image.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DONE, NOT_RUN, FAILED = "done", "not run", "failed"
_CANNOT = (2, 4)  # bad input for this version, and missing hardware or library


@dataclass(frozen=True)
class Outcome:
    """``reason`` is one line for a step that did not end well; ``result`` what it printed."""

    name: str
    status: str
    seconds: float = 0.0
    reason: str = ""
    result: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run_step(name: str, arguments: Sequence[object], timeout: float) -> Outcome:
    """``python ARGUMENTS`` in the repository's root; its last line on stdout may be JSON."""
    print(f"{name} … ", end="", file=sys.stderr, flush=True)
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = process.communicate(timeout=timeout)
        status, reason = _verdict(process.returncode, err)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        status, reason = FAILED, f"took longer than {timeout:.0f} s"
    seconds = time.perf_counter() - start
    print(f"{status} ({seconds:.0f} s){': ' + reason if reason else ''}", file=sys.stderr)
    return Outcome(name, status, seconds, reason, _result(out))


def not_run(name: str, reason: str) -> Outcome:
    """A step that has no sense on this machine."""
    print(f"{name} … {NOT_RUN}: {reason}", file=sys.stderr)
    return Outcome(name, NOT_RUN, reason=reason)


def _verdict(code: int, err: str) -> tuple[str, str]:
    if code == 0:
        return DONE, ""
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    reason = (errors or lines or ["no message"])[-1]
    if code < 0:
        return FAILED, f"killed by {signal.Signals(-code).name}; last words: {reason}"
    return (NOT_RUN if code in _CANNOT and errors else FAILED), reason


def _result(out: str) -> dict[str, Any]:
    last = (out.strip().splitlines() or [""])[-1]
    try:
        value = json.loads(last)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
