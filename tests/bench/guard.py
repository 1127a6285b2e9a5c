"""Samples taken while others used the cores: seen, thrown away, repeated.

What others use is the machine's busy time (Linux, ``/proc/stat``) less this process's own. Stolen
time, in which the host ran somebody else, counts as others' too.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MAX_SHARE = 0.1  # of the cores' time
REPEATS = 2  # of a sample that was disturbed
_TICK = 1 / os.sysconf("SC_CLK_TCK")
# The kernel counts in ticks of 10 ms a core: so much may be an error of counting. On two cores, a
# sample under 20 ms is therefore never thrown away.
SLACK = 1  # ticks a core


@dataclass(frozen=True)
class Usage:
    """Seconds: of the clock, of all cores together, of this process with its threads."""

    wall: float
    machine: float
    own: float

    @classmethod
    def now(cls) -> Usage:
        first = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, first.split()[1:9])
        machine = (user + nice + system + irq + softirq + steal) * _TICK
        mine = resource.getrusage(resource.RUSAGE_SELF)
        return cls(time.perf_counter(), machine, mine.ru_utime + mine.ru_stime)


def others(before: Usage, after: Usage, cores: int) -> float:
    """The share of the cores' time between the two that other processes took, 0 to 1."""
    used = (after.machine - before.machine) - (after.own - before.own)
    time_of_cores = (after.wall - before.wall) * cores
    return max(used - SLACK * cores * _TICK, 0.0) / time_of_cores


@dataclass(frozen=True)
class Sample:
    """``disturbed`` is how many before this one were thrown away; ``share`` what others took."""

    seconds: float
    share: float
    disturbed: int

    @property
    def quiet(self) -> bool:
        return self.share <= MAX_SHARE


def guarded(run: Callable[[], object], before: Callable[[], object] = lambda: None) -> Sample:
    """Time a call, again where others disturbed it.

    ``before`` is called before each. Where every repeat was disturbed too, the one that was least
    is given, which then is not ``quiet``.
    """
    cores = os.cpu_count() or 1
    samples: list[Sample] = []
    for disturbed in range(REPEATS + 1):
        before()
        start = Usage.now()
        run()
        end = Usage.now()
        samples.append(Sample(end.wall - start.wall, others(start, end, cores), disturbed))
        if samples[-1].quiet:
            return samples[-1]
    least = min(samples, key=lambda sample: sample.share)
    return Sample(least.seconds, least.share, REPEATS)
