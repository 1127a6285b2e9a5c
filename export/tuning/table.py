"""What ``adaptrt tune`` prints."""

from __future__ import annotations

from collections.abc import Iterator

from export.tuning.tune import Measured, Tuning
from runtimes.choices import Device
from runtimes.tuned import VARIABLE

_HEAD = f"{'executor':18} {'threads':>7} {'texts/s':>9} {'tokens/s':>9} {'ratio':>6} {'memory':>9}"


def text_lines(tuning: Tuning) -> Iterator[str]:
    """The table, what was left out, and where the choice was written."""
    cpu, passes = tuning.cpu, len(tuning.chosen.samples)
    yield (
        f"{tuning.texts} texts, {tuning.tokens} tokens; medians of {passes}; {cpu.model}, "
        f"{cpu.cores} cores"
    )
    yield _HEAD
    for measured in tuning.measured:
        yield _row(measured, tuning)
    for name, reason in tuning.left_out.items():
        yield f"left out: {name}: {reason}"
    yield f"chosen: {_named(tuning.chosen, tuning)}; written to {tuning.path}"
    yield f"(Embedder.load and adaptrt encode read it; {VARIABLE} names another file)"


def _row(measured: Measured, tuning: Tuning) -> str:
    """``ratio`` is to the first row, which is what is used untuned."""
    seconds, memory = measured.seconds, measured.memory
    held = "-" if memory is None else f"{memory / 1e9:.2f} GB"
    return (
        f"{measured.candidate.executor.name:18} {_threads(measured, tuning):>7} "
        f"{tuning.texts / seconds:9.1f} {tuning.tokens / seconds:9.0f} "
        f"{tuning.measured[0].seconds / seconds:6.2f} {held:>9}"
    )


def _threads(measured: Measured, tuning: Tuning) -> str:
    candidate = measured.candidate
    if candidate.executor.device is not Device.CPU:
        return "-"
    return str(candidate.threads or tuning.cpu.cores)


def _named(measured: Measured, tuning: Tuning) -> str:
    threads = _threads(measured, tuning)
    name = measured.candidate.executor.name
    return name if threads == "-" else f"{name}, threads: {threads}"
