"""Commands as processes, and whether they ended as they may.

May: with 0, or with one line of error on standard error, the last one, and a documented exit code
that is not that of a mistake of ours. Never: a traceback, another code, a signal's death that was
not ours, more time than :data:`LIMIT_SECONDS` or more memory than :data:`LIMIT_MB`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.console.failures import CLOSED, EXIT_CODES, INTERNAL, INTERRUPTED, TERMINATED

ROOT = Path(__file__).parents[2]
ADAPTRT = (sys.executable, "-m", "export.cli")
LIMIT_SECONDS = 300.0  # a small build takes 10 s of a core; the machine may be busy
LIMIT_MB = 3000.0  # resident; a small build holds 0.9 GB, most of it libraries
_QUIET = (0, CLOSED)  # these say nothing


@dataclass(frozen=True)
class Outcome:
    """How a process ended: ``code`` is None where it was stopped at the limit of time."""

    code: int | None
    stdout: str
    stderr: str
    seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Verdict:
    """How the case is counted, and what is wrong with it; None where nothing is."""

    ended: str
    wrong: str | None = None


def environment(home: Path | None = None, **more: str) -> dict[str, str]:
    """As in a user's shell: one thread, and no variable of a test run; ``home`` holds all else."""
    dropped = ("PYTHONUNBUFFERED", "PYTEST_CURRENT_TEST", "ADAPTRT_DEBUG", "ADAPTRT_TUNE_FILE")
    kept = {k: v for k, v in os.environ.items() if k not in dropped}
    if home is not None:
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        (home / "home").mkdir(exist_ok=True)
        kept |= {"HOME": str(home / "home"), "TMPDIR": str(home / "tmp")}
    return kept | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} | more


def run(
    command: Sequence[object],
    *,
    env: Mapping[str, str] | None = None,
    limit: float = LIMIT_SECONDS,
    disturb: Callable[[subprocess.Popen[bytes]], None] | None = None,
    **more: Any,
) -> Outcome:
    """A process of a group of its own to its end; ``disturb`` does something to it meanwhile."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
        start = time.monotonic()
        settings: dict[str, Any] = {"cwd": ROOT, "env": environment() if env is None else env}
        words = [str(word) for word in command]
        process = subprocess.Popen(words, start_new_session=True, **settings | streams | more)
        if disturb is not None:
            disturb(process)
        code, peak = _wait(process, start + limit)
        seconds = time.monotonic() - start
        texts = [_text(stream) for stream in (out, err)]
    return Outcome(code, texts[0], texts[1], seconds, peak)


def _wait(process: subprocess.Popen[bytes], deadline: float) -> tuple[int | None, float]:
    while True:
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_maxrss * 1024 / 1e6
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            return None, usage.ru_maxrss * 1024 / 1e6
        time.sleep(0.01)


def _text(stream: Any) -> str:
    stream.seek(0)
    data: bytes = stream.read(1 << 20)
    return data.decode("utf-8", "backslashreplace")


def judge(outcome: Outcome, expected: Collection[int] | None = None) -> Verdict:
    """Whether a command ended as it may; ``expected`` are the codes that the case may end with."""
    code = outcome.code
    if code is None:
        return Verdict("hang", f"no end after {outcome.seconds:.0f} s")
    ended = "valid result" if code == 0 else f"signal {-code}" if code < 0 else f"exit {code}"
    return Verdict(ended, _wrong(outcome, code, expected))


def _wrong(outcome: Outcome, code: int, expected: Collection[int] | None) -> str | None:
    said = outcome.stderr.splitlines()
    last = said[-1] if said else ""
    for where, text in (("standard error", outcome.stderr), ("standard output", outcome.stdout)):
        if "Traceback (most recent call last)" in text:
            return f"a traceback on {where}: {text.splitlines()[-1]}"
    if code not in EXIT_CODES or code == INTERNAL:
        return f"exit code {code}: {last}"
    if expected is not None and code not in expected:
        return f"exit code {code}, expected {sorted(expected)}: {last}"
    if outcome.peak_mb > LIMIT_MB:
        return f"{outcome.peak_mb:.0f} MB, at most {LIMIT_MB:.0f} are allowed"
    start = "interrupted" if code in (INTERRUPTED, TERMINATED) else "error: "
    errors = [line for line in said if line.startswith(start)]
    if code not in _QUIET and (len(errors) != 1 or last != errors[0]):
        return f"exit code {code} with {len(errors)} lines of error, the last line: {last!r}"
    if code == 0 and any(line.startswith("error: ") for line in said):
        return f"exit code 0 with an error: {last}"
    return None
