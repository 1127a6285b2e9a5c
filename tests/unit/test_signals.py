"""Signals that wait: while what is half made has no owner yet, and until it may be cleared away."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from export.bundle.publish import staging
from export.console.termination import Terminated, raised_on_sigterm
from runtimes.signals import held_back
from runtimes.temporary import temporary_folder


def waited(number: signal.Signals, *, allowed: bool) -> list[str]:
    """What ran after a signal came: in the block, and in one in which it may come."""
    ran: list[str] = []

    def block() -> None:
        with raised_on_sigterm(), held_back() as hold:
            with hold.allowed():
                ran.append("before")
            signal.raise_signal(number)
            ran.append("held")
            if allowed:
                with hold.allowed():
                    ran.append("allowed")
            ran.append("end")

    with pytest.raises(KeyboardInterrupt):
        block()
    return ran


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_or_for_where_it_may_come(number: signal.Signals) -> None:
    assert waited(number, allowed=False) == ["before", "held", "end"]
    assert waited(number, allowed=True) == ["before", "held"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_that_comes_in_a_destructor_is_not_lost(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    class Freed:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def block() -> None:
        with raised_on_sigterm():
            freed = Freed()
            del freed
            time.sleep(10)

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        block()
    assert time.monotonic() - start < 5
    assert capfd.readouterr() == ("", "")


# Every system call that publishing makes on its names, one after the other.
CALLS = ("open", "rename", "unlink", "close", "rmdir", "mkdir")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("former", [False, True])
def test_at_no_call_of_publishing_a_signal_leaves_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, former: bool
) -> None:
    """The signal comes right after each call that makes, moves or removes something."""
    at, count = -1, 0

    def watched(name: str) -> None:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            found = real(*args, **kwargs)
            if count == at:
                count += 1
                signal.raise_signal(number)
            else:
                count += 1
            return found

        monkeypatch.setattr(os, name, call)

    for name in CALLS:
        watched(name)
    seen, total = 0, None
    while total is None or at < total:
        place = tmp_path / str(at)
        place.mkdir()
        if former:
            (place / "x").mkdir()
            (place / "x" / "old").write_text("old")
        count = 0
        try:
            with raised_on_sigterm(), staging(place / "x", lambda _: None, lambda _: None) as new:
                (new / "new").write_text("new")
        except KeyboardInterrupt:
            seen += 1
        if total is None:
            total = count
        at += 1
        left = sorted(path.name for path in place.iterdir())
        assert left in (["x"], []), (at, left)
        if left:
            held = [path.name for path in (place / "x").iterdir()]
            assert held in (["old"], ["new"])
        assert left or not former
    assert seen == total > 5


def test_a_temporary_folder_is_gone_where_a_signal_came_as_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    real = os.open

    def opened(*args: Any, **kwargs: Any) -> int:
        found = real(*args, **kwargs)
        signal.raise_signal(signal.SIGTERM)
        return found

    monkeypatch.setattr(os, "open", opened)
    folder = temporary_folder("adaptrt-test-")
    with pytest.raises(Terminated), raised_on_sigterm(), folder:
        pytest.fail("it did not come")
    assert not list(tmp_path.iterdir())
