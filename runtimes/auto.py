"""Which executor a bundle is opened with where ``auto`` is asked for.

It is decided once, before anything is opened, and nothing is tried in turn: what was chosen and
cannot be opened is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtimes.choices import parse_device
from runtimes.cpu_kinds import read_cpu
from runtimes.errors import InputError, shown
from runtimes.manifest import Manifest
from runtimes.open import CPU_EXECUTOR, EXECUTORS, Executor, cpu_executor, find_executor
from runtimes.tuned import Tuned, read_choice, tune_file

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """An executor, and its threads on a CPU (None: one per core)."""

    executor: Executor
    threads: int | None


def choose(
    folder: Path,
    manifest: Manifest,
    runtime: object,
    *,
    device: str | None = None,
    threads: int | None = None,
    adapter: Path | None = None,
) -> Chosen:
    """The executor called ``runtime``, and the threads it gets.

    ``auto`` is what was tuned for this bundle on this machine, where it runs on ``device`` and
    takes an adapter that is given; otherwise :func:`~runtimes.open.cpu_executor`. ``threads``
    that are given are used.
    Raises :class:`InputError` for another name, and for a choice that cannot be read.
    """
    if runtime != AUTO:
        return Chosen(executor=find_executor(runtime, AUTO), threads=threads)
    kind = None if device is None else parse_device(device)[0]
    if (tuned := read_choice(folder, read_cpu())) is not None:
        executor = _tuned_executor(tuned)
        if kind in (None, executor.device) and (adapter is None or executor.fills_slots):
            given = tuned.threads if threads is None else threads
            return Chosen(executor=executor, threads=given)
    executor = cpu_executor(manifest) if adapter is None else EXECUTORS[CPU_EXECUTOR]
    return Chosen(executor=executor, threads=threads)


def _tuned_executor(tuned: Tuned) -> Executor:
    row = EXECUTORS.get(tuned.runtime)
    if row is None or not row.offered:
        raise InputError(
            f"{tune_file()}: runtime: got {shown(tuned.runtime)}, which this version of adaptrt "
            "does not have; run adaptrt tune again"
        )
    return row
