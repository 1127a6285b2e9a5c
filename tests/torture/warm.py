"""Commands without their start: forked from a process that has loaded and built already.

Nine tenths of a small build are imports, so two hundred killed ones and as many undisturbed ones
are affordable only without. What runs in the child is the command's own ``main``. It can be told
to kill itself at one of its own file events, which no clock hits: each file below the watched
folders that is opened, made, renamed or removed, and each lock, is one.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.torture.judge import LIMIT_SECONDS, ROOT, Outcome, environment

_EVENTS = ("open", "os.", "shutil.", "fcntl.flock")


class Warm:
    """The process that forks, and the one child that it has at a time."""

    def __init__(self, folder: Path, warm_up: Sequence[str], prelude: str = "") -> None:
        """``warm_up`` is a first command, run in the process itself.

        ``prelude`` is code that is run in it before: a defect that is planted.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        with (folder / "warm-up.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.torture.warm", json.dumps(list(warm_up)), prelude],
                cwd=ROOT,
                env=environment(folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        if self._answer() != {"ready": 0}:
            raise RuntimeError((folder / "warm-up.log").read_text())

    def __enter__(self) -> Warm:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def run(
        self,
        arguments: Sequence[object],
        env: Mapping[str, str],
        watched: Sequence[Path],
        *,
        kill_at: int | None = None,
        after: float | None = None,
        number: int = signal.SIGKILL,
        limit: float = LIMIT_SECONDS,
    ) -> tuple[Outcome, int]:
        """One command, and how many file events it had.

        It gets the signal ``number`` at its event ``kill_at``, or ``after`` so many seconds.
        """
        names = {stream: self._folder / stream for stream in ("stdout", "stderr", "events")}
        request = {
            "arguments": [str(word) for word in arguments],
            "env": dict(env),
            "watched": [str(path) for path in watched],
            "kill_at": kill_at,
            "signal": number,
            **{key: str(path) for key, path in names.items()},
        }
        assert self._process.stdin is not None
        start = time.monotonic()
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        handle = os.pidfd_open(int(self._answer()["pid"]))  # a number could be another's by now
        try:
            if after is not None and not _ended(handle, after):
                _send(handle, number)
            hung = not _ended(handle, limit)
            if hung:
                _send(handle, signal.SIGKILL)
        finally:
            os.close(handle)
        answer = self._answer()
        said = [names[s].read_bytes().decode("utf-8", "replace") for s in ("stdout", "stderr")]
        code = None if hung else int(answer["code"])
        outcome = Outcome(code, said[0], said[1], time.monotonic() - start, answer["peak_mb"])
        return outcome, int(names["events"].read_text() or 0)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or '{"ready": 1}')
        return answer


def _ended(handle: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(max(1, int(seconds * 1000))))


def _send(handle: int, number: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, number)


def _serve(warm_up: Sequence[str], prelude: str) -> None:
    """Fork a child for each request on standard input, and say how it ended."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the command prints is no answer
    exec(prelude, {})
    from export.cli import main

    code = main(list(warm_up)) if warm_up else 0
    print(json.dumps({"ready": code}), file=answers, flush=True)
    while line := sys.stdin.readline():
        request = json.loads(line)
        if (pid := os.fork()) == 0:
            _child(request)
        print(json.dumps({"pid": pid}), file=answers, flush=True)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # its number stays its own until here
        _, status, usage = os.wait4(pid, 0)
        answer = {
            "code": os.waitstatus_to_exitcode(status),
            "peak_mb": usage.ru_maxrss * 1024 / 1e6,
        }
        print(json.dumps(answer), file=answers, flush=True)


def _child(request: dict[str, Any]) -> None:
    """The command, in its own environment and with its own streams; never returns."""
    from export.cli import main

    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell's & began it
    os.environ.clear()
    os.environ.update(request["env"])
    tempfile.tempdir = None  # that of the environment
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, name in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
        os.dup2(os.open(name, flags if number else os.O_RDONLY, 0o600), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the parent's holds what it read
    events = os.open(request["events"], flags, 0o600)
    count = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if not event.startswith(_EVENTS) or not (
            event == "fcntl.flock" or any(_within(a, request["watched"]) for a in arguments)
        ):
            return
        count += 1
        os.pwrite(events, str(count).encode(), 0)
        if count == request["kill_at"]:
            os.kill(os.getpid(), request["signal"])

    sys.addaudithook(watch)
    code = 70  # of no command
    try:
        code = main(request["arguments"])
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _within(argument: Any, folders: Sequence[str]) -> bool:
    return isinstance(argument, str | os.PathLike) and str(argument).startswith(tuple(folders))


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]), sys.argv[2])
