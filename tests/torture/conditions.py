"""What machines do to commands: full disks, folders that may not be written, clocks that jump.

Each condition is a function that tries some commands in it; a case is one command. Former results
stay as they were where the command fails, and nothing is left beside them.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle.staging import staging
from runtimes import Embedder
from runtimes.errors import AdaptrtError
from runtimes.manifest import Manifest
from tests.torture.jobs import JOBS, MODEL, bundle_identity, checkpoints, private_strays
from tests.torture.judge import ADAPTRT, Outcome, environment, judge, run
from tests.torture.report import Failure

NEVER: Collection[int] = (0, 1, 2, 4)  # no gate fails, nobody interrupts
SHIM = Path(__file__).with_name("clock.c")


@dataclass
class Place:
    """What the conditions are tried on, and what came of it."""

    folder: Path
    random: random.Random
    ended: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    peak_mb: float = 0.0

    def __post_init__(self) -> None:
        self.models = checkpoints(self.folder / "checkpoints")
        self.home = self.folder / "private"
        self.env = environment(self.home)
        self.texts = self.folder / "texts.txt"
        self.texts.write_text("".join(f"text number {n}\n" for n in range(200)))
        self.bundles = [self.folder / "former" / letter for letter in "ab"]
        for model, bundle in zip(self.models, self.bundles, strict=True):
            done = run((*ADAPTRT, *self.engine(bundle.parent, model=model)), env=self.env)
            if done.code != 0:
                raise RuntimeError(done.stderr[-1000:])
            (bundle.parent / MODEL / "bundle").rename(bundle)
        self.identities = [bundle_identity(bundle) for bundle in self.bundles]

    def engine(self, out: Path, *, model: Path | None = None) -> tuple[object, ...]:
        """A build into ``<out>/tiny/bundle``."""
        return tuple(JOBS[0].arguments(model or self.models[1], out, out))

    def encode(self, *more: object, bundle: Path | None = None) -> tuple[object, ...]:
        return ("encode", "--bundle", bundle or self.bundles[0], *more, "a text", "and another")

    def embed(self, out: Path, texts: Path | None = None) -> tuple[object, ...]:
        return ("embed", texts or self.texts, "--bundle", self.bundles[0], "--out", out)

    def verify(self, bundle: Path | None = None) -> tuple[object, ...]:
        return ("verify", "--bundle", bundle or self.bundles[0])

    def writing(self, out: Path) -> tuple[tuple[object, ...], ...]:
        """The commands that write something below ``out``."""
        return (
            self.engine(out),
            self.encode("--out", out / "vectors.npy"),
            self.embed(out / "embedded"),
            ("triton", "--bundle", self.bundles[0], "--out", out / "repository"),
        )

    def commands(self, out: Path) -> tuple[tuple[object, ...], ...]:
        """Every command; they write below ``out``."""
        return (*self.writing(out), self.verify())

    def out(self, name: str) -> Path:
        """An empty folder."""
        path = self.folder / "out" / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def former(self, out: Path) -> Path:
        """The first checkpoint's bundle where a build of the second will put its own."""
        place = out / MODEL / "bundle"
        shutil.copytree(self.bundles[0], place)
        return place

    def attempt(
        self,
        case: str,
        arguments: Sequence[object],
        *,
        expected: Collection[int] = NEVER,
        out: Path | None = None,
        prefix: Sequence[object] = (),
        silent: bool = False,
        **more: Any,
    ) -> Outcome:
        """One case: how it ended, and below ``out`` no stray; ``silent`` where no line can be."""
        outcome = run((*prefix, *ADAPTRT, *arguments), **{"env": self.env, **more})
        verdict = judge(outcome, expected)
        wrong = None if silent and outcome.code in expected else verdict.wrong
        if not wrong and out is not None and (left := self._left(out)):
            wrong = f"exit {outcome.code} left behind: {', '.join(left[:5])}"
        self.count(f"{case}: {arguments[0]}", verdict.ended, wrong)
        self.peak_mb = max(self.peak_mb, outcome.peak_mb)
        return outcome

    def count(self, case: str, ended: str, wrong: str | None) -> None:
        self.ended[ended] += 1
        if wrong:
            self.failures.append(Failure(case, wrong))

    def whole(self, case: str, bundle: Path, allowed: Sequence[int] = (0, 1)) -> None:
        """The bundle must be that of one of the ``allowed`` checkpoints."""
        try:
            found = self.identities.index(bundle_identity(bundle))
        except (AdaptrtError, OSError, ValueError) as error:
            self.failures.append(Failure(case, f"the bundle is broken or gone: {error}"))
            return
        if found not in allowed:
            self.failures.append(Failure(case, "the bundle is another one"))

    def _left(self, out: Path) -> list[str]:
        found = [p for p in out.rglob("*") if p.name.startswith(".")]
        return [p.name for p in found if p.name != ".adaptrt-embed"] + private_strays(self.home)


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[bool]:
    """A file system of so many bytes in memory; False where this user may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    done = subprocess.run(command, capture_output=True, check=False)
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def full_disk(place: Place, count: int) -> None:
    """At a random point of each command's writing; a former bundle is there."""
    for number in range(count):
        disk = place.folder / "disk"
        with mounted(disk, "64m") as there:
            if not there:
                return
            bundle = place.former(disk)
            arguments = place.writing(disk)[number % 4]
            used = sum(p.stat().st_blocks * 512 for p in disk.rglob("*"))
            free = int(10 ** place.random.uniform(3.6, 6.7))
            _remount(disk, f"size={used + free}")
            case = f"full disk, {free} bytes free"
            outcome = place.attempt(case, arguments, out=disk)
            place.whole(case, bundle, (1,) if outcome.code == 0 and number % 4 == 0 else (0,))


def full_temporary_folder(place: Place, count: int) -> None:
    """Where calibrations put the FP32 model."""
    for _ in range(max(1, count // 4)):
        disk = place.folder / "disk"
        with mounted(disk, str(int(10 ** place.random.uniform(4, 6.5)))) as there:
            if there:
                out = place.out("calibrated")
                arguments = JOBS[6].arguments(place.models[0], out, out)
                env = place.env | {"TMPDIR": str(disk)}
                place.attempt("full TMPDIR", arguments, out=out, env=env)


def read_only(place: Place, count: int) -> None:
    """Bundles are read from it, nothing is written into it, and commands say so."""
    disk = place.folder / "disk"
    with mounted(disk, "64m") as there:
        if not there:
            return
        bundle = place.former(disk)
        shutil.copyfile(place.texts, disk / "texts.txt")
        _remount(disk, "ro")
        for arguments in place.writing(disk):
            place.attempt("read-only OUT", arguments, expected=(2,), out=disk)
        out = place.out("elsewhere")
        private = place.env | {"HOME": str(disk), "TMPDIR": str(disk)}
        for arguments in (
            place.encode(bundle=bundle),
            place.verify(bundle),
            place.embed(out / "embedded", disk / "texts.txt"),
            place.engine(out),
        ):
            place.attempt("read-only all but OUT", arguments, expected=(0,), env=private)
        place.whole("read-only", bundle, (0,))


def no_home(place: Place, count: int) -> None:
    """An empty environment, a home that is not there, a temporary folder that is not there."""
    python = str(Path(sys.executable).parent)
    bare = {"PATH": f"{python}:/usr/bin:/bin"}
    for name, env in {
        "empty environment": bare,
        "HOME is nowhere": place.env | {"HOME": "/nonexistent"},
        "HOME is a file": place.env | {"HOME": str(place.texts), "TMPDIR": "/nonexistent"},
    }.items():
        for arguments in place.commands(place.out("homeless")):
            place.attempt(name, arguments, expected=(0,), env=env)
    tune = ("tune", "--bundle", place.bundles[0], "--forget")
    place.attempt("empty environment", tune, expected=(2,), env=bare)


def clock(place: Place, count: int) -> None:
    """Time goes back by a day and forward by a year, four times a second."""
    library = place.folder / "clock.so"
    if shutil.which("gcc") is None:
        return
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, SHIM, "-ldl"], check=True)
    env = place.env | {"LD_PRELOAD": str(library)}
    seen = run((sys.executable, "-c", _TIMES), env=env)
    if seen.stdout.split() != ["True", "True"]:
        place.failures.append(Failure("clock", f"the clock does not jump: {seen}"))
    out = place.out("clock")
    for arguments in place.commands(out):
        place.attempt("clock that jumps", arguments, expected=(0,), out=out, env=env)


_TIMES = """
import time
times = []
while len(times) < 200:
    times.append(time.time())
    time.sleep(0.01)
steps = [b - a for a, b in zip(times, times[1:])]
print(min(steps) < -80_000, max(steps) > 30_000_000)
"""


def at_once(place: Place, count: int) -> None:
    """Two and three builds of one bundle, from two checkpoints, and one of them killed."""
    for number, killed in enumerate((False, True)):
        out = place.out("together")
        bundle = place.former(out)
        builds = 2 + number

        def one(index: int) -> Outcome:
            victim = killed and index == 0  # noqa: B023 - awaited in this turn
            command = (*ADAPTRT, *place.engine(out, model=place.models[index % 2]))  # noqa: B023
            return run(command, env=place.env, disturb=partial(_kill, place) if victim else None)

        with ThreadPoolExecutor(builds) as pool:
            outcomes = list(pool.map(one, range(builds)))
        case = f"{builds} builds at once"
        for index, outcome in enumerate(outcomes):
            if killed and index == 0 and outcome.code == -9:
                place.count(f"{case}, one killed", "killed", None)
                continue
            verdict = judge(outcome, (0,))
            place.count(f"{case}: engine", verdict.ended, verdict.wrong)
        place.whole(case, bundle)
        place.attempt(f"{case}, the next", place.engine(out), expected=(0,), out=out)
        place.whole(case, bundle, (1,))


def _kill(place: Place, process: subprocess.Popen[bytes]) -> None:
    time.sleep(place.random.uniform(2, 12))
    os.kill(process.pid, signal.SIGKILL)  # one that has ended is a zombie still


def replaced_while_read(place: Place, count: int) -> None:
    """Two bundles of other weights take turns at one place; a reader gets one of them, whole."""
    final = place.out("replaced") / "bundle"
    other = place.random.choice((0.0, 0.002, 0.01))
    texts = ["a text", "and another"]
    expected = []
    for bundle in place.bundles:
        with Embedder.load(bundle) as embedder:
            expected.append((embedder.manifest, embedder.encode(texts)))
    ended = threading.Event()

    def publish() -> int:
        turns = 0
        while not ended.is_set():
            with staging(final) as folder:
                shutil.copytree(place.bundles[turns % 2], folder, dirs_exist_ok=True)
            turns += 1
            time.sleep(other)
        return turns

    with ThreadPoolExecutor(1) as pool:
        turns = pool.submit(publish)
        while not final.is_dir():
            time.sleep(0.01)
        try:
            for number in range(10 * count):
                ended_, wrong = _read(final, texts, expected)
                place.count(f"replaced while read, {number}", ended_, wrong)
            for arguments in (place.encode(bundle=final), place.verify(final)):
                place.attempt("replaced while read", arguments, expected=(0, 2, 3))
        finally:
            ended.set()
    if turns.result() < 10:
        place.failures.append(Failure("replaced while read", "it was hardly ever replaced"))


def _read(
    final: Path, texts: Sequence[str], expected: Sequence[tuple[Manifest, Any]]
) -> tuple[str, str | None]:
    try:
        with Embedder.load(final) as embedder:
            found, said = embedder.encode(texts), embedder.manifest
    except AdaptrtError as error:
        return f"exit {error.exit_code}", None
    good = any(said == manifest and np.array_equal(found, its) for manifest, its in expected)
    return "valid result", None if good else "not the vectors of the bundle that its manifest is of"


CONDITIONS = (
    full_disk,
    full_temporary_folder,
    read_only,
    no_home,
    clock,
    at_once,
    replaced_while_read,
)
