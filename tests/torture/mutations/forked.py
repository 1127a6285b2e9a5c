"""One call of the command in a process of its own, with limits, and how it ended."""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.torture.mutations.places import Place

Call = Callable[[Sequence[str]], int]
ESCAPED = 70  # an exception that came out of the call; no exit code of the command
_PR_SET_PDEATHSIG = 1
_MOST_SHOWN = 1 << 20  # bytes of a stream that are kept


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a process may take: ``seconds`` by the clock, ``memory`` (address space) in bytes
    beyond what its parent has, ``peak_mb`` of resident memory, ``file`` in bytes for one file.

    One that ``serves`` goes on until it is stopped, which it is after so many seconds.
    """

    seconds: float = 120.0
    memory: int = 6 << 30
    peak_mb: float = 1500.0
    file: int = 512 << 20
    serves: float | None = None


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended: its exit ``code``, or the ``signal`` that ended it.

    ``seconds`` are by the clock, ``cpu`` those of its own work; ``peak_mb`` is resident memory.
    """

    code: int | None
    signal: int | None = None
    hung: bool = False
    seconds: float = 0.0
    cpu: float = 0.0
    peak_mb: float = 0.0
    out: bytes = b""
    err: str = ""


def run_forked(
    call: Call,
    argv: Sequence[str],
    place: Place,
    limits: Limits,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """``call(argv)`` in a forked process that sees ``place`` alone as its own folders.

    The parent must have one thread: a lock that another holds would stay locked in the child.
    """
    start = time.monotonic()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _child(call, argv, place, limits, {**_environment(place), **(environment or {})}, parent)
    hung, status, usage = _wait(pid, limits)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # what it may have started
    code = os.waitstatus_to_exitcode(status)
    return Ended(
        code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        hung=hung,
        seconds=time.monotonic() - start,
        cpu=usage.ru_utime + usage.ru_stime,
        peak_mb=usage.ru_maxrss * 1024 / 1e6,
        out=_stream(place.streams / "out"),
        err=_stream(place.streams / "err").decode("utf-8", "backslashreplace"),
    )


def _environment(place: Place) -> dict[str, str]:
    home, tmp = place.idle["home"], place.idle["tmp"]
    return {"HOME": str(home), "TMPDIR": str(tmp), "XDG_CACHE_HOME": str(home / ".cache")}


def _wait(pid: int, limits: Limits) -> tuple[bool, int, resource.struct_rusage]:
    """Whether it had to be killed, and what the kernel says of its end."""
    handle = os.pidfd_open(pid)
    try:
        patience = [(limits.seconds, signal.SIGKILL)]
        if limits.serves is not None:
            patience.insert(0, (limits.serves, signal.SIGINT))
        for seconds, number in patience:
            if select.select([handle], [], [], seconds)[0]:
                break
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        else:
            _, status, usage = os.wait4(pid, 0)
            return True, status, usage
        _, status, usage = os.wait4(pid, 0)
        return False, status, usage
    finally:
        os.close(handle)


def _stream(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_MOST_SHOWN)


def _child(
    call: Call,
    argv: Sequence[str],
    place: Place,
    limits: Limits,
    environment: Mapping[str, str],
    parent: int,
) -> None:
    """Never returns."""
    code = ESCAPED
    try:
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(ESCAPED)
        _redirect(place.streams)
        os.environ.update(environment)
        tempfile.tempdir = None
        os.chdir(place.idle["cwd"])
        _limit(limits)
        code = call(argv)
        sys.stdout.flush()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0
    except BaseException:  # noqa: BLE001 - whatever it is, the parent is to see it
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _redirect(folder: Path) -> None:
    """Standard input is empty; output and error go to files."""
    null = os.open(os.devnull, os.O_RDONLY)
    out, err = (
        os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        for name in ("out", "err")
    )
    for number, handle in enumerate((null, out, err)):
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for the process's life
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
    )


def _limit(limits: Limits) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    space = pages * resource.getpagesize() + limits.memory
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file, limits.file))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
