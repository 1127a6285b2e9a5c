"""What ``adaptrt drift`` finds in bundles of the sample, and how small a defect may be.

``make drift-report`` builds the bundles and writes ``docs/benchmarks/drift/sample.json``. Defects
of shrinking size are planted (:mod:`tests.proof.defects`) until they are no longer named.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from export.checkpoint.reader import open_checkpoint
from export.checkpoint.source import SAMPLE
from export.drift.blocks import Block, Place
from export.drift.drift import measure_drift
from export.drift.spec import DriftSpec
from export.drift.table import as_json
from tests.bench.drift_table import REPORT
from tests.bench.reports import ROOT
from tests.bench.summary import machine
from tests.proof.defects import Patient, clipped, coarse, epsilon, rope_base, scale

LENGTHS = (8, 32, 128, 512)


@dataclass(frozen=True)
class Ladder:
    """A defect in sizes that shrink. ``names`` are what it may be called when it is found."""

    name: str
    place: Place
    names: tuple[str, ...]
    sizes: Sequence[float]
    plant: Callable[[Patient, float], None]
    quantised: bool = False


LADDERS = (
    Ladder(
        "Q, K and V times a factor, layer 3",
        Place(Block.QKV, 3),
        ("wrong scale",),
        (1.05, 1.02, 1.01, 1.005, 1.002, 1.001, 1.0005, 1.0001, 1.00001),
        scale,
    ),
    Ladder(
        "epsilon of a norm, layer 2 (1e-5)",
        Place(Block.NORM1, 2),
        ("another epsilon",),
        (1e-3, 5e-4, 2e-4, 1e-4, 5e-5, 2e-5, 1.5e-5, 1.1e-5),
        epsilon,
    ),
    Ladder(
        "RoPE's base, layer 2 (20000)",
        Place(Block.ROPE, 2),
        ("wrong positions",),
        (10000, 15000, 19000, 19500, 19900, 19990),
        rope_base,
    ),
    Ladder(
        "an input scale times a factor, layer 2's fc1",
        Place(Block.FC1, 2),
        ("input scale too small",),
        (0.25, 0.5, 0.6, 0.7, 0.8, 0.9),
        clipped,
        quantised=True,
    ),
    Ladder(
        "the same, larger",
        Place(Block.FC1, 2),
        ("input scale too large",),
        (64, 32, 16, 12, 8, 4, 2),
        coarse,
        quantised=True,
    ),
)


def least(bundle: Path, ladder: Ladder, scratch: Path) -> float | None:
    """The smallest size that is named at its place; the first that is not ends the search."""
    checkpoint, found = open_checkpoint(SAMPLE), None
    for size in ladder.sizes:
        folder = Path(shutil.copytree(bundle, scratch / "patient"))
        try:
            patient = Patient(folder, checkpoint)
            ladder.plant(patient, size)
            patient.repair()
            first = measure_drift(DriftSpec(bundle=folder, lengths=(128,))).first
        finally:
            shutil.rmtree(folder)
        if first is None or first.cell.place != ladder.place:
            return found
        if first.finding.cause not in ladder.names:
            return found
        found = size
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, action="append", required=True)
    parser.add_argument("--planted", type=Path, action="append", default=[], help="merged ones")
    given = parser.parse_args()
    bundles = []
    for bundle in (*given.bundle, *given.planted):
        print(bundle, flush=True)
        bundles.append(as_json(measure_drift(DriftSpec(bundle=bundle, lengths=LENGTHS))))
    found: dict[str, dict[str, float | None]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for bundle in given.planted:
            quantised = "int8" in bundle.name
            found[bundle.name] = {
                ladder.name: least(bundle, ladder, Path(scratch))
                for ladder in LADDERS
                if quantised or not ladder.quantised
            }
            print(json.dumps(found[bundle.name]), flush=True)
    report = {
        "command": "make drift-report",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "bundles": bundles,
        "least": found,
    }
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"written: {REPORT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
