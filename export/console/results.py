"""What a command prints of what it made, on standard output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from runtimes.manifest import Manifest
from runtimes.schemes import SCHEMES


def bundle_lines(path: Path, manifest: Manifest, seconds: float) -> str:
    """A bundle's files, how it compared, which tokens it holds, how much of it is quantised."""
    lines = [f"{path}  ({seconds:.0f} s)"]
    for entry in manifest.artifacts:
        label = entry.kind + (f" {entry.gpu}" if entry.gpu else "")
        lines.append(f"  {entry.path:32} {_size(entry.bytes):>12}  {label}")
    if (parity := manifest.parity) is not None:
        lines.append(
            f"  parity: {parity.rows} texts, minimum cosine {parity.min_cosine:.7f} "
            f"(gate {parity.threshold}), mean {parity.mean_cosine:.7f}\n"
            f"          {parity.executed} against {parity.reference}; the reference itself in "
            f"BF16: {parity.reference_bf16_min_cosine:.7f}"
        )
    if (kept := manifest.vocabulary) is not None:
        lines.append(
            f"  vocabulary: {kept.rows} of {kept.of} tokens; of the gate's {kept.gate.texts} texts "
            f"{kept.gate.covered} are covered; others: {kept.unknown}"
        )
    if (quantisation := manifest.quantisation) is not None:
        lines.append(
            f"  {SCHEMES[quantisation.scheme].label}: {quantisation.share:.1%} of the GEMMs' work, "
            f"{len(quantisation.fallback)} GEMMs fell back"
        )
    return "\n".join(lines)


def calibration_lines(path: Path, gemms: int, lengths: Mapping[str, int], *, reused: bool) -> str:
    """A calibration's file, and how many texts of up to so many tokens it comes from."""
    listed = ", ".join(f"{count} of up to {bound}" for bound, count in lengths.items())
    return (
        f"{path}{'  (as it was: nothing changed)' if reused else ''}\n"
        f"  {gemms} GEMMs; texts by tokens: {listed}"
    )


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
