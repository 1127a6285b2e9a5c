"""One measurement in a process of its own: an executor, opened, embeds texts.

A process each, so that threads of one executor do not spin beside another's, memory is that of one
alone, and no two copies of the weights are loaded at once. Run as a module this is that process:
a request on standard input, the answer as the last line of standard output.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import msgspec

from runtimes import Embedder
from runtimes.choices import Unknown
from runtimes.errors import AdaptrtError, MissingError, one_line
from runtimes.manifest import read_manifest

_LEAST = 0.5  # seconds that are timed; a small bundle runs its texts several times
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is measured: a bundle's folder, an executor's name and threads, and the texts."""

    bundle: str
    runtime: str
    threads: int | None
    task: str | None
    texts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Seconds of one pass over the texts, and the most bytes that the process ever held.

    ``memory`` is None where the system does not say it.
    """

    seconds: float
    memory: int | None = None


@dataclass(frozen=True, kw_only=True)
class _Answer:
    sample: Sample | None = None
    error: str = ""
    missing: bool = False


def take_sample(request: Request) -> Sample:
    """Measure in a new process. Raises what opening or running the bundle raises there."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", __name__],
        input=msgspec.json.encode(request),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    try:
        answer = msgspec.json.decode(done.stdout.strip().rpartition(b"\n")[2], type=_Answer)
    except msgspec.DecodeError as error:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise AdaptrtError(
            f"{request.runtime}: the process that measures it ended with {done.returncode}"
            f"{': ' if last else ''}{one_line(last)}"
        ) from error
    if answer.sample is None:
        kind = MissingError if answer.missing else AdaptrtError
        raise kind(answer.error if answer.missing else f"{request.runtime}: {answer.error}")
    return answer.sample


def measure(request: Request) -> Sample:
    """Open the bundle and time passes over the texts after one that is not timed."""
    pruned = read_manifest(Path(request.bundle), files=False).vocabulary is not None
    with Embedder.load(
        request.bundle,
        runtime=request.runtime,
        threads=request.threads,
        unknown=Unknown.ERROR if pruned else None,  # of the texts it covers
    ) as embedder:
        embedder.encode(request.texts, task=request.task)
        passes, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < _LEAST:
            embedder.encode(request.texts, task=request.task)
            passes += 1
    return Sample(seconds=elapsed / passes, memory=_peak_memory())


def _peak_memory() -> int | None:
    """The most bytes this process held; what ``getrusage`` says is the greatest of its parents'."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    stated = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return next((int(kilobytes) << 10 for kilobytes in stated), None)


def _main() -> None:
    warnings.simplefilter("ignore")  # texts are cut as in use; what INT8 lacks shows in its time
    try:
        request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
        answer = _Answer(sample=measure(request))
    except AdaptrtError as error:
        answer = _Answer(error=str(error), missing=isinstance(error, MissingError))
    print(f"\n{msgspec.json.encode(answer).decode()}", flush=True)


if __name__ == "__main__":
    _main()
