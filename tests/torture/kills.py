"""Commands killed, or told to end, at random moments, with a former result in their place.

After a kill the former result is whole or the new one is, and the next command that nobody
disturbs succeeds and leaves nothing behind: no staged folder, no temporary file, no lock, neither
beside the result nor in the temporary folder or the home, which are its own. After SIGINT and
SIGTERM nothing is left at once, and the exit code is the documented one.

Moments are times over the whole run, and file events: half of those are of the last third, where
results are put in their place. One command in sixteen starts afresh, the others are forked from a
process that has loaded everything (:mod:`tests.torture.warm`).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

from export.console.failures import INTERRUPTED, TERMINATED
from runtimes.errors import AdaptrtError
from tests.torture.jobs import JOBS, Job, checkpoints, strays
from tests.torture.judge import ADAPTRT, Outcome, environment, judge, run
from tests.torture.report import Failure, Report
from tests.torture.warm import Warm

LANES = 2  # at the same time, each with its own folders
_FRESH = 16
_CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}


@dataclass
class _Known:
    """Of a job: what it makes of each checkpoint, and how long and of how many events it is."""

    identities: list[str] = field(default_factory=list)
    events: int = 1
    seconds: float = 1.0


@dataclass
class _Lane:
    folder: Path
    seed: int
    numbers: Sequence[int]
    warm: Warm
    jobs: Sequence[Job]
    bundles: Sequence[Path]  # of either checkpoint
    ended: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    peak_mb: float = 0.0
    known: dict[str, _Known] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home = self.folder / "home"
        self.random = random.Random(self.seed)
        self.models = checkpoints(self.folder / "checkpoints")
        self.env = environment(self.home)
        self.fresh_seconds = 0.0
        self.bundles = self.bundles or self._build()

    def _build(self) -> list[Path]:
        bundles = [self.folder / "bundles" / letter / "bundle" for letter in "ab"]
        for model, bundle in zip(self.models, bundles, strict=True):
            arguments = JOBS[0].arguments(model, bundle.parent, bundle)
            self._require(self._warm(arguments, bundle.parent)[0])
            (bundle.parent / JOBS[0].place).rename(bundle)
        return bundles

    def case(self, number: int, deadline: float) -> None:
        """One disturbed command, what it left, and for a kill the next one."""
        if time.monotonic() > deadline:
            return
        job, which = self.random.choice(self.jobs), self.random.randrange(2)
        sent = self.random.choice(self.numbers)
        former = self._former(job, self.known.get(job.name) or self._learn(job))
        known = self.known[job.name]
        name = f"seed {self.seed}, case {number}: {job.name}"
        for other in job.beside if self.random.random() < 0.5 else ():
            (self.out(job) / other).unlink(missing_ok=True)
        how, outcome = self._disturbed(
            job, which, sent, fresh=number // LANES % _FRESH == _FRESH - 1
        )
        name += f", {signal.Signals(sent).name} {how}"
        self._look(name, job, known, outcome, (former, which), sent)
        if sent == signal.SIGKILL:
            self._undisturbed(f"{name}; the next one", job, which)

    def out(self, job: Job) -> Path:
        return self.folder / "out" / job.name.replace(" ", "-")

    def place(self, job: Job) -> Path:
        return self.out(job) / job.place

    def _former(self, job: Job, known: _Known) -> int:
        """Which contents stand there; another failure than this case's where it is neither's."""
        try:
            return known.identities.index(job.identity(self.place(job)))
        except (AdaptrtError, OSError, ValueError) as error:
            self._fail(
                job.name, f"what the case before left is neither the former nor new: {error}"
            )
            shutil.rmtree(self.out(job))
            return self._former(job, self._learn(job))

    def _learn(self, job: Job) -> _Known:
        known = self.known[job.name] = _Known()
        self.out(job).mkdir(parents=True, exist_ok=True)
        for which in range(2):
            self._require(self._plain(job, which))
            known.identities.append(job.identity(self.place(job)))
        return known

    def _require(self, outcome: Outcome) -> None:
        if outcome.code != 0:
            raise RuntimeError(f"without a disturbance: {outcome.code}: {outcome.stderr[-1000:]}")

    def _arguments(self, job: Job, which: int) -> Sequence[object]:
        return job.arguments(self.models[which], self.out(job), self.bundles[which])

    def _warm(self, arguments: Sequence[object], out: Path, **more: Any) -> tuple[Outcome, int]:
        watched = (out, self.home)
        outcome, events = self.warm.run(arguments, self.env, watched, **more)
        self.peak_mb = max(self.peak_mb, outcome.peak_mb)
        return outcome, events

    def _plain(self, job: Job, which: int) -> Outcome:
        outcome, events = self._warm(self._arguments(job, which), self.out(job))
        known = self.known[job.name]
        known.events, known.seconds = max(1, events), outcome.seconds
        return outcome

    def _disturbed(self, job: Job, which: int, sent: int, *, fresh: bool) -> tuple[str, Outcome]:
        known, arguments = self.known[job.name], self._arguments(job, which)
        if fresh:
            return self._fresh(arguments, sent)
        if self.random.random() < 0.5:
            after = self.random.uniform(0, known.seconds)
            outcome, _ = self._warm(arguments, self.out(job), after=after, number=sent)
            return f"after {after:.2f} of about {known.seconds:.2f} s", outcome
        least = 1 if self.random.random() < 0.5 else max(1, known.events * 2 // 3)
        event = self.random.randint(least, known.events)
        outcome, _ = self._warm(arguments, self.out(job), kill_at=event, number=sent)
        return f"at file event {event} of about {known.events}", outcome

    def _fresh(self, arguments: Sequence[object], sent: int) -> tuple[str, Outcome]:
        """One with its start; how long that takes is measured once."""
        command = (*ADAPTRT, *arguments)
        if not self.fresh_seconds:
            whole = run(command, env=self.env)
            self._require(whole)
            self.fresh_seconds, self.peak_mb = whole.seconds, max(self.peak_mb, whole.peak_mb)
        # The interpreter's own start has no words for a signal.
        after = self.random.uniform(0 if sent == signal.SIGKILL else 1, self.fresh_seconds)

        def disturb(process: Popen[bytes]) -> None:
            time.sleep(after)
            os.kill(process.pid, sent)  # one that has ended is a zombie still

        outcome = run(command, env=self.env, disturb=disturb)
        self.peak_mb = max(self.peak_mb, outcome.peak_mb)
        return f"a fresh one after {after:.2f} of about {self.fresh_seconds:.2f} s", outcome

    def _look(
        self,
        name: str,
        job: Job,
        known: _Known,
        outcome: Outcome,
        contents: tuple[int, int],
        sent: int,
    ) -> None:
        """Count how the disturbed command ended, and whether what it left is whole."""
        former, new = contents
        verdict = judge(outcome, {0, _CODES[signal.Signals(sent)]})
        killed = outcome.code == -signal.SIGKILL and sent == signal.SIGKILL
        # Before the command begins and after its end, SIGTERM is the interpreter's.
        outside = outcome.code == -signal.SIGTERM and sent == signal.SIGTERM
        if verdict.wrong and not killed and not outside:
            self._fail(name, verdict.wrong)
        left = strays(job, self.out(job), self.home)
        try:
            found = known.identities.index(job.identity(self.place(job)))
        except (AdaptrtError, OSError, ValueError) as error:
            self._fail(name, f"what stands in its place is neither the former nor new: {error}")
            self.ended["broken"] += 1
            shutil.rmtree(self.out(job))
            del self.known[job.name]
            return
        if found not in contents:
            self._fail(name, "what stands in its place is older than the former one")
        if left and sent != signal.SIGKILL:
            self._fail(name, f"left behind: {', '.join(left[:5])}")
            self._clean(left, job)
        if not killed:
            self.ended[verdict.ended] += 1
        elif found == new != former:
            self.ended["killed, the new one is there"] += 1
        else:
            self.ended["killed " + ("with" if left else "without") + " something staged"] += 1

    def _undisturbed(self, name: str, job: Job, which: int) -> None:
        if job.name not in self.known:
            self._learn(job)
        outcome = self._plain(job, which)
        if wrong := judge(outcome, {0}).wrong:
            self._fail(name, wrong)
        elif job.identity(self.place(job)) != self.known[job.name].identities[which]:
            self._fail(name, "is not what it makes undisturbed")
        if left := strays(job, self.out(job), self.home):
            self._fail(name, f"left behind: {', '.join(left[:5])}")
            self._clean(left, job)

    def _clean(self, left: Sequence[str], job: Job) -> None:
        """So that one failure is not counted again."""
        for path in [self.out(job) / name for name in left] + [self.home / name for name in left]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _fail(self, name: str, seen: str) -> None:
        self.failures.append(Failure(name, seen))


def disturb(
    name: str,
    count: int,
    seed: int,
    folder: Path,
    *,
    numbers: Sequence[int],
    lanes: int = LANES,
    seconds: float | None = None,
    jobs: Sequence[Job] = JOBS,
    bundles: Sequence[Path] = (),
    prelude: str = "",
) -> Report:
    """So many disturbed commands.

    None is begun after so many ``seconds``, or half a minute for each. ``bundles`` are two that
    commands read, which otherwise are built first; ``prelude`` is code that plants a defect.
    """
    start = time.monotonic()
    end = start + (30.0 * count if seconds is None else seconds)

    def lane(index: int) -> _Lane:
        place = folder / f"lane-{index}"
        model = checkpoints(place / "checkpoints")[0]
        (place / "warm-up").mkdir()
        first = jobs[0].arguments(model, place / "warm-up", bundles[0] if bundles else model)
        with Warm(place / "warm", [str(word) for word in first], prelude) as warm:
            made = _Lane(place, seed * LANES + index, numbers, warm, jobs, bundles)
            for number in range(index, count, lanes):
                made.case(number, end)
                print(f"{name}: case {number} of {count}", file=sys.stderr)
        return made

    with ThreadPoolExecutor(lanes) as pool:
        made = list(pool.map(lane, range(lanes)))
    return Report(
        name=name,
        seed=seed,
        asked=count,
        ended=dict(sorted(sum((one.ended for one in made), Counter[str]()).items())),
        failures=[failure for one in made for failure in one.failures],
        seconds=round(time.monotonic() - start, 1),
        peak_mb=round(max(one.peak_mb for one in made)),
    )


def kills(count: int, seed: int, folder: Path) -> Report:
    """SIGKILL."""
    return disturb("kills", count, seed, folder, numbers=(signal.SIGKILL,))


def signals(count: int, seed: int, folder: Path) -> Report:
    """SIGINT and SIGTERM."""
    return disturb("signals", count, seed, folder, numbers=(signal.SIGINT, signal.SIGTERM))
