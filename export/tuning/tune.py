"""Measure what can run a bundle here, in shuffled rounds, and keep the fastest."""

from __future__ import annotations

import random
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibration.corpus import load_corpus
from export.console.progress import log, stage
from export.tuning.sample import Request, Sample, take_sample
from runtimes.choices import AdapterMode, Device
from runtimes.cpu_kinds import Cpu, read_cpu
from runtimes.errors import InputError, MissingError
from runtimes.executors.tensorrt.cuda import device_sm
from runtimes.files import require_file_place
from runtimes.manifest import Manifest, read_manifest
from runtimes.open import EXECUTORS, Executor, cpu_executor, judged_file
from runtimes.text.tokenizer_file import load_tokenizer
from runtimes.text.tokens import TruncationWarning
from runtimes.tuned import Key, Tuned, read_choice, require_tune_file, write_choice

# Medians of a quiet machine differ by as much from run to run; what is used untuned stays then.
NOISE = 0.03


@dataclass(frozen=True, kw_only=True)
class TuneSpec:
    """What is measured, on which texts (None: the project's own), and how long.

    Of the texts ``most_texts`` are drawn at random. No round begins after ``minutes``, but every
    executor is measured once. With ``threads`` fewer of them than one per core are tried too.
    """

    bundle: Path
    texts: Path | None = None
    most_texts: int = 64
    rounds: int = 3
    minutes: float = 10.0
    threads: bool = False

    def __post_init__(self) -> None:
        for name, value in (("--max-texts", self.most_texts), ("--rounds", self.rounds)):
            if value < 1:
                raise InputError(f"{name}: got {value}, expected at least 1")
        if self.minutes < 0:
            raise InputError(f"--minutes: got {self.minutes}, expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An executor with so many threads; None: one per core, or it runs on a GPU."""

    executor: Executor
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A candidate's samples, and what they say: medians, and the most memory in bytes."""

    candidate: Candidate
    samples: tuple[Sample, ...]

    @property
    def seconds(self) -> float:
        """Of one pass over the texts."""
        return statistics.median(sample.seconds for sample in self.samples)

    @property
    def memory(self) -> int | None:
        """None where the system does not say it."""
        return max((s.memory for s in self.samples if s.memory is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What came of it; the first of ``measured`` is what is used untuned, if that is here.

    ``left_out`` are executors that the bundle is for and that cannot be opened, with the reason.
    """

    measured: tuple[Measured, ...]
    chosen: Measured
    left_out: Mapping[str, str]
    texts: int
    tokens: int
    cpu: Cpu
    path: Path


def tune(spec: TuneSpec) -> Tuning:
    """Measure, and write the choice into the user's file.

    Raises :class:`MissingError` where nothing here can run the bundle.
    """
    path, cpu = require_tune_file(), read_cpu()
    manifest = read_manifest(spec.bundle)
    key = Key.of(spec.bundle, cpu)
    require_file_place(path)
    read_choice(spec.bundle, cpu)  # a file in bad shape is told of before the work
    task = manifest.tasks[0] if manifest.adapter is AdapterMode.SWITCHABLE else None
    texts = draw_texts(spec, manifest, task)
    tokens = count_tokens(spec.bundle, manifest, texts, task)

    def sample(candidate: Candidate) -> Sample:
        return take_sample(
            Request(
                bundle=str(spec.bundle),
                runtime=candidate.executor.name,
                threads=candidate.threads,
                task=task,
                texts=texts,
            )
        )

    found = list(candidates(manifest, cpu.cores, threads=spec.threads))
    measured, left_out = run_rounds(found, sample, spec.rounds, spec.minutes * 60)
    if not measured:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise MissingError(f"{spec.bundle}: nothing here can run it; {reasons}")
    tuning = Tuning(
        measured=measured,
        chosen=choose_fastest(measured),
        left_out=left_out,
        texts=len(texts),
        tokens=tokens,
        cpu=cpu,
        path=path,
    )
    write_choice(path, key, _choice(tuning))
    return tuning


def forget(bundle: Path) -> bool:
    """Remove what was chosen for a bundle on this machine; whether there was anything."""
    return write_choice(require_tune_file(), Key.of(bundle, read_cpu()), None)


def draw_texts(
    spec: TuneSpec, manifest: Manifest | None = None, task: str | None = None
) -> tuple[str, ...]:
    """The texts, or so many of them at random: their lengths are spread as those of all.

    Of a bundle that holds some of the tokens, those that it covers.
    """
    corpus = [text.text for text in load_corpus(spec.texts, "--texts")]
    if manifest is not None and manifest.vocabulary is not None:
        tokenizer, prefix = (
            load_tokenizer(spec.bundle, manifest),
            manifest.prefixes[task or manifest.task],
        )
        rows = tokenizer.tokenize([prefix + text for text in corpus])
        away = set(tokenizer.kept.uncovered(rows)) if tokenizer.kept is not None else set()
        corpus = [text for index, text in enumerate(corpus) if index not in away]
        if not corpus:
            raise InputError(
                f"--texts: {spec.bundle} holds the tokens of none of them; name texts like those "
                "that it was built for"
            )
    if len(corpus) > spec.most_texts:
        corpus = random.Random(0).sample(corpus, spec.most_texts)
    return tuple(corpus)


def candidates(manifest: Manifest, cores: int, *, threads: bool = False) -> Iterator[Candidate]:
    """What the bundle has something for on this machine, the executor that is used untuned first.

    With ``threads`` those on a CPU come with 1, 2, 4 … below one per core too.
    """
    first = cpu_executor(manifest)
    rows = [row for row in EXECUTORS.values() if row.offered and _fits(row, manifest)]
    for row in sorted(rows, key=lambda row: row is not first):
        yield Candidate(executor=row)
        if threads and row.device is Device.CPU:
            for power in range((cores - 1).bit_length()):
                yield Candidate(executor=row, threads=1 << power)


def _fits(row: Executor, manifest: Manifest) -> bool:
    if manifest.precision not in row.precisions or judged_file(row, manifest) is None:
        return False
    return row.device is Device.CPU or device_sm() is not None


def run_rounds(
    found: Sequence[Candidate],
    sample: Callable[[Candidate], Sample],
    rounds: int,
    seconds: float,
) -> tuple[tuple[Measured, ...], dict[str, str]]:
    """Every candidate once a round, each round in another order, until the time is over.

    Those whose executor is not there are left out, with the reason by the executor's name.
    """
    shuffle, start = random.Random(0), time.monotonic()
    samples: dict[Candidate, list[Sample]] = defaultdict(list)
    left_out: dict[str, str] = {}
    for number in range(rounds):
        if number and time.monotonic() - start >= seconds:
            log.info("%d of %d rounds: the time is over", number, rounds)
            break
        with stage(f"round {number + 1} of {rounds}"):
            for candidate in shuffle.sample(found, len(found)):
                if (name := candidate.executor.name) in left_out:
                    continue
                try:
                    samples[candidate].append(sample(candidate))
                except MissingError as error:
                    left_out[name] = str(error)
    return tuple(
        Measured(candidate=candidate, samples=tuple(samples[candidate]))
        for candidate in found
        if candidate.executor.name not in left_out
    ), left_out


def choose_fastest(measured: Sequence[Measured]) -> Measured:
    """The one with the least time; an earlier one that is within :data:`NOISE` of it."""
    least = min(one.seconds for one in measured)
    return next(one for one in measured if one.seconds <= least * (1 + NOISE))


def count_tokens(bundle: Path, manifest: Manifest, texts: Sequence[str], task: str | None) -> int:
    """Tokens of the texts as they are embedded: with the prefix, as far as the bundle takes."""
    tokenizer = load_tokenizer(bundle, manifest)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        return sum(map(len, tokenizer.encode(texts, manifest.prefixes[task or manifest.task])))


def _choice(tuning: Tuning) -> Tuned:
    chosen = tuning.chosen
    return Tuned(
        runtime=chosen.candidate.executor.name,
        threads=chosen.candidate.threads,
        texts_per_second=tuning.texts / chosen.seconds,
    )
