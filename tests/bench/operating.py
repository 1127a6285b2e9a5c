"""How often verdicts on quality are right: ``make verdicts``.

Simulated schemes: FP32 vectors of the project's sets, each moved by the same angle in a direction
drawn at random. 1 - its cosine is the level. And controls, schemes that are broken outright. What
is counted is how their verdicts end, and after how many draws of texts.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from calibration.corpus import graded_pairs, questions
from calibration.evidence import Outcome, worst
from calibration.looks import LOOKS, confidence
from calibration.quality import LEAST, SetVectors, losses
from export.console.progress import progress_bar
from export.gate.quality_texts import OWNERS
from runtimes import Embedder
from runtimes.arrays import Vectors
from runtimes.manifest import read_manifest
from runtimes.outputs import truncate
from tests.bench.plan_tables import markdown
from tests.bench.reports import FOLDER
from tests.bench.summary import machine

REPORTS = FOLDER / "verdicts"  # the committed ones, a file for each checkpoint
LEVELS = (5e-5, 2e-4, 5e-4, 1e-3, 2e-3, 3e-3, 1e-2)
_ENDS = (Outcome.ACCEPTED, Outcome.REFUSED, Outcome.UNDECIDED)
Change = Callable[[Vectors, np.random.Generator], Vectors]
CONTROLS: Mapping[str, Change] = {
    "all vectors the same": lambda rows, _: np.repeat(rows[:1], len(rows), axis=0),
    "every second text's vector is another's": lambda rows, _: np.where(
        (np.arange(len(rows)) % 2 == 0)[:, None], rows, np.roll(rows, 1, axis=0)
    ),
    "no sign of a quarter of the numbers": lambda rows, _: np.concatenate(
        [np.abs(rows[:, ::4]), *(rows[:, k::4] for k in (1, 2, 3))], axis=1
    ),
    "NaN in one vector": lambda rows, _: np.where(
        (np.arange(len(rows)) == 5)[:, None], np.nan, rows
    ).astype(np.float32),
}


def side_texts() -> dict[str, list[str]]:
    """Of every side of :class:`SetVectors`, all there are."""
    asked, graded = questions(), graded_pairs()
    passages = [q.passage for q in asked]
    texts = {
        "queries": [q.query for q in asked],
        "negatives": [text for q in asked for text in q.negatives],
        "first": [p.first for p in graded],
        "second": [p.second for p in graded],
    }
    return {side: texts.get(side, passages) for side in OWNERS}


def lengths(asked: int, graded: int) -> dict[str, int]:
    """How many of each side's texts a look is at."""
    sizes = {"negatives": 3 * asked, "first": graded, "second": graded}
    return {side: sizes.get(side, asked) for side in OWNERS}


def exact_vectors(bundle: Path) -> SetVectors:
    """Each side by the task made for it, with a bundle of all tasks."""
    texts = side_texts()
    with Embedder.load(bundle) as embedder:
        return SetVectors(**{s: embedder.encode(texts[s], task=task) for s, task in OWNERS.items()})


def moved(level: float) -> Change:
    """Unit rows at 1 - cosine ``level`` from the given ones."""

    def change(rows: Vectors, rng: np.random.Generator) -> Vectors:
        noise = rng.standard_normal(rows.shape)
        noise -= (noise * rows).sum(axis=1, keepdims=True) * rows
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        found: Vectors = ((1 - level) * rows + np.sqrt(level * (2 - level)) * noise).astype("f4")
        return found

    return change


def verdict(exact: SetVectors, ours: SetVectors, widths: Sequence[int]) -> tuple[str, int]:
    """How it ends, and after how many looks."""
    for number, look in enumerate(LOOKS, 1):
        pairs = [(_cut(exact, look, width), _cut(ours, look, width)) for width in widths]
        if (outcome := outcome_of(pairs, look)) != Outcome.UNDECIDED:
            return outcome, number
    return Outcome.UNDECIDED, len(LOOKS)


def outcome_of(pairs: Iterable[tuple[SetVectors, SetVectors]], look: tuple[int, int]) -> str:
    """Of FP32's vectors and ours at each width, of one look's texts."""
    asked, graded = look
    sets = questions()[:asked], graded_pairs()[:graded]
    found = [loss for pair in pairs for loss in losses(*pair, *sets, confidence())]
    if worst(found, Outcome.REFUSED):
        return Outcome.REFUSED
    return Outcome.UNDECIDED if worst(found, Outcome.UNDECIDED) else Outcome.ACCEPTED


def _cut(vectors: SetVectors, look: tuple[int, int], width: int) -> SetVectors:
    counts = lengths(*look)
    return mapped(vectors, lambda side, rows: truncate(rows[: counts[side]], width))


def mapped(vectors: SetVectors, change: Callable[[str, Vectors], Vectors]) -> SetVectors:
    return SetVectors(**{f.name: change(f.name, getattr(vectors, f.name)) for f in fields(vectors)})


def simulate(
    name: str, exact: SetVectors, widths: Sequence[int], change: Change, schemes: int
) -> Mapping[str, Any]:
    """Shares of outcomes and of looks over so many schemes."""
    ends = []
    for seed in progress_bar(range(schemes), name, "scheme"):
        rng = np.random.default_rng(seed)
        ours = mapped(exact, lambda _, rows, rng=rng: change(rows, rng))  # type: ignore[misc]
        ends.append(verdict(exact, ours, widths))
    outcomes, seen = (Counter(values) for values in zip(*ends, strict=True))
    return {
        "schemes": schemes,
        "outcomes": {str(outcome): outcomes[outcome] / schemes for outcome in _ENDS},
        "looks": {str(n): seen[n] / schemes for n in range(1, len(LOOKS) + 1)},
    }


def table() -> str:
    """The committed reports."""
    return "\n\n".join(_table(path) for path in sorted(REPORTS.glob("*.json"), reverse=True))


def _table(path: Path) -> str:
    report = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        (name, str(found["schemes"]), *_shares(found["outcomes"]), *_shares(found["looks"]))
        for name, found in {
            **{f"1 − cosine {level}": row for level, row in report["levels"].items()},
            **report["controls"],
        }.items()
    ]
    looks = (f"at {n} queries" for n in report["queries"])
    head = ("scheme", "simulated", *map(str, _ENDS), *looks)
    widths = " and ".join(map(str, report["widths"]))
    finds = ", ".join(f"{name} {value:.2f}" for name, value in report["exact"].items())
    caption = f"*{path.stem}, {widths} dimensions; {report['machine']}, {report['date']}*"
    return "\n\n".join([caption, f"FP32 on all texts: {finds}.", markdown(head, rows)])


def _shares(shares: Mapping[str, float]) -> list[str]:
    return [f"{share:.0%}" if share else "" for share in shares.values()]


def report_of(bundle: Path, schemes: int) -> dict[str, Any]:
    """What is committed of one checkpoint."""
    dimensions = read_manifest(bundle).dimensions
    widths = tuple(dict.fromkeys((dimensions[-1], dimensions[0])))
    exact = exact_vectors(bundle)
    found = losses(exact, exact, questions(), graded_pairs(), confidence())
    return {
        "command": "make verdicts",
        "machine": machine(),
        "date": date.today().isoformat(),
        "widths": widths,
        "queries": [asked for asked, _ in LOOKS],
        "exact": {loss.figure: loss.exact for loss in found if loss.figure in LEAST},
        "levels": {
            f"{level:g}": simulate(f"{level:g}", exact, widths, moved(level), schemes)
            for level in LEVELS
        },
        "controls": {
            name: simulate(name, exact, widths, change, 1) for name, change in CONTROLS.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--bundle", type=Path, required=True, action="append", help="of all tasks, in FP32"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--schemes", type=int, default=50, help="simulated per level")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for bundle in arguments.bundle:
        path = arguments.out / f"{bundle.parent.name}.json"
        path.write_text(json.dumps(report_of(bundle, arguments.schemes), indent=2) + "\n")
        print(_table(path))


if __name__ == "__main__":
    main()
