"""The committed report of ``make drift-report`` as tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.bench.plan_tables import markdown
from tests.bench.reports import FOLDER

REPORT = FOLDER / "drift" / "sample.json"


def healthy_table() -> str:
    """A row for each bundle: how near its rounding it is, and what its vectors lost."""
    rows = []
    report = _report()
    for found in report["bundles"]:
        nearest = max(found["blocks"], key=lambda cell: cell["expected"] - cell["local"]["snr"])
        vectors = [cell for cell in found["blocks"] if cell["block"] == "pooling"]
        rows.append(
            (
                f"`{found['bundle']}`",
                str(len(found["departing"])),
                f"layer {nearest['layer']}, {nearest['block']}, {nearest['length']} tokens",
                f"{nearest['local']['snr'] - nearest['expected']:+.1f}",
                ", ".join(f"{cell['accumulated']['snr']:.0f}" for cell in vectors),
            )
        )
    lengths = ", ".join(map(str, report["bundles"][0]["lengths"]))
    head = (
        "bundle",
        "blocks that depart",
        "nearest to it",
        "dB beside rounding alone",
        f"vectors, dB at {lengths} tokens",
    )
    return f"{_caption(report)}\n\n{markdown(head, rows)}"


def least_table() -> str:
    """A row for each defect: the smallest that was named, by bundle."""
    report = _report()
    bundles = list(report["least"])
    names = list(dict.fromkeys(name for row in report["least"].values() for name in row))
    rows = [
        (name, *(_size(report["least"][bundle].get(name, "")) for bundle in bundles))
        for name in names
    ]
    return f"{_caption(report)}\n\n{markdown(('defect', *(f'`{b}`' for b in bundles)), rows)}"


def _size(found: float | str | None) -> str:
    return "not found" if found is None else str(found) if found == "" else f"{found:g}"


def _caption(report: Mapping[str, Any]) -> str:
    return f"*The sample, {report['machine']}, {report['date']}*"


def _report() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(REPORT.read_text(encoding="utf-8"))
    return found
