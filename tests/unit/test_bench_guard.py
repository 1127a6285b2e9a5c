"""Samples that others disturbed are seen and taken again; quiet ones are not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from threading import Thread

import pytest

from tests.bench import guard
from tests.bench.guard import Usage, guarded, others

CORES = os.cpu_count() or 1


def spin(seconds: float) -> None:
    """Busy in this process."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(1000))


@pytest.fixture
def busy_others() -> Iterator[None]:
    """A process for every core that does nothing but compute."""
    command = [sys.executable, "-c", "while True: sum(range(1000))"]
    processes = [subprocess.Popen(command) for _ in range(CORES)]
    time.sleep(0.3)  # they start
    yield
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("busy_others")
def test_other_processes_are_seen() -> None:
    before = Usage.now()
    spin(0.5)
    assert others(before, Usage.now(), CORES) > 0.3
    sample = guarded(lambda: spin(0.2))
    assert (sample.quiet, sample.disturbed) == (False, guard.REPEATS)


def test_this_process_with_its_threads_is_no_other() -> None:
    """Whatever runs beside the tests: what this process used is not counted as others'."""
    before = Usage.now()
    block = bytes(1 << 22)
    hashing = [Thread(target=lambda: [sha256(block) for _ in range(60)]) for _ in range(CORES)]
    for thread in hashing:
        thread.start()
    for thread in hashing:
        thread.join()
    after = Usage.now()
    mine = (after.own - before.own) / ((after.wall - before.wall) * CORES)
    assert mine > 0.1
    assert others(before, after, CORES) <= 1 - mine + 0.05


def usages(*shares: float) -> Callable[[], Usage]:
    """A clock of one second for each sample, whose others take these shares of the cores."""
    values = []
    for number, share in enumerate(shares):
        values.append(Usage(wall=2.0 * number, machine=0.0, own=0.0))
        slack = guard.SLACK * CORES / os.sysconf("SC_CLK_TCK")
        used = 1.5 + share * CORES + slack
        values.append(Usage(wall=2.0 * number + 1.0, machine=used, own=1.5))
    return iter(values).__next__


@pytest.mark.parametrize(
    ("shares", "disturbed", "quiet"),
    [
        ([0.05], 0, True),
        ([0.5, 0.05], 1, True),
        ([0.5, 0.5, 0.05], 2, True),
        ([0.5, 0.3, 0.4], 2, False),
    ],
    ids=["quiet", "once", "twice", "always"],
)
def test_a_disturbed_sample_is_repeated_twice_at_most(
    shares: list[float], disturbed: int, quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Usage, "now", usages(*shares))
    runs: list[None] = []
    sample = guarded(lambda: runs.append(None))
    assert len(runs) == len(shares)
    assert (sample.disturbed, sample.quiet) == (disturbed, quiet)
    assert sample.share == pytest.approx(min(shares))


def test_ticks_of_a_short_sample_are_no_disturbance() -> None:
    before = Usage(wall=0.0, machine=0.0, own=0.0)
    after = Usage(wall=0.005, machine=0.01 * CORES, own=0.0)
    assert others(before, after, CORES) == 0.0
