"""Proofs that the documents show: kept without their long tables, and as a table.

``python -m tests.bench.proof PROOF_JSON NAME`` keeps one; ``make proofs`` and ``make prove-full``
do it after they made it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.plan_tables import markdown
from tests.bench.reports import FOLDER, ROOT

REPORTS = FOLDER / "proof"  # the committed ones, a file for each bundle
_KEPT = ("controls", "neighbours", "floor")  # sections whose tables are kept
_LENGTHS = (8, 128, 512, 2048, 8192)
Report = Mapping[str, Any]


def reduced(proof: Report) -> Report:
    """Without the rows that charts and figures say too."""
    sections = []
    for section in proof["sections"]:
        result = dict(section["result"])
        if section["name"] not in _KEPT:
            result["tables"] = []
        sections.append({**section, "result": result})
    return {**proof, "sections": sections}


def keep(path: Path, name: str, folder: Path = REPORTS) -> Path:
    """Write the reduced proof among the committed ones."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}.json"
    proof = reduced(json.loads(path.read_text(encoding="utf-8")))
    proof = {"command": "make prove-full" if name.startswith("full") else "make proofs", **proof}
    target.write_text(json.dumps(proof, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return target


def load() -> list[Report]:
    """The committed proofs, by name."""
    return [json.loads(path.read_text("utf-8")) for path in sorted(REPORTS.glob("*.json"))]


def names() -> tuple[str, ...]:
    """The committed proofs' files below docs/benchmarks."""
    return tuple(f"{REPORTS.name}/{path.name}" for path in sorted(REPORTS.glob("*.json")))


def table() -> str:
    """A row for each committed proof."""
    proofs = load()
    rows = [_row(proof) for proof in proofs]
    head = (
        "bundle",
        "verdict",
        "longest text",
        *(f"worst at {n} tokens" for n in _LENGTHS),
        "gate",
        "controls refused",
        "reference against itself",
    )
    places = dict.fromkeys(f"{proof['machine']}, {proof['date']}" for proof in proofs)
    return f"{markdown(head, rows)}\n\n*Worst 1 − cosine. {'; '.join(places)}*"


def _row(proof: Report) -> tuple[str, ...]:
    sections = {section["name"]: section["result"] for section in proof["sections"]}
    chart = sections["lengths"]["charts"][0]
    points = {point["tokens"]: point["worst"] for point in chart["curves"][0]["points"]}
    figures = {f["name"]: f["value"] for f in sections["controls"]["figures"]}
    asked, accepted = int(figures["controls"]), int(figures["accepted"])
    floor = sections["floor"]["figures"]
    own = next(f["value"] for f in floor if "FP32" in f["name"])
    return (
        f"{proof['facts']['model']}, {proof['bundle']}",
        proof["verdict"],
        str(max(points)),
        *(f"{points[n]:.1e}" if n in points else "–" for n in _LENGTHS),
        f"{chart['gate']:.0e}",
        f"{asked - accepted} of {asked}",
        f"{own:.1e}",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Keep one proof."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("proof", type=Path)
    parser.add_argument("name")
    given = parser.parse_args(arguments)
    print(keep(given.proof, given.name).relative_to(ROOT))


if __name__ == "__main__":
    main()
