"""The ladder's table, from the committed report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.bench.plan_tables import markdown
from tests.bench.reports import FOLDER, ROOT

REPORT = FOLDER / "ladder" / "full.json"
PAGE = ROOT / "docs" / "tasks" / "smaller-model.md"


def table() -> str:
    """A row for each rung."""
    report = json.loads(REPORT.read_text(encoding="utf-8"))
    rows = [(name, *_cells(found)) for name, found in report["rungs"].items()]
    caption = (
        f"*Published shape, random weights; {report['builder']}, sm86 / sm89 / sm120; "
        f"{report['machine']}, {report['date']}*"
    )
    head = (
        "",
        "engine, MB",
        "bundle with one, MB",
        "activations 1×512, 8×512, MB",
        "resident on a CPU, MB: loaded, after 1×512",
        "sample: least, mean cosine",
    )
    return f"{caption}\n\n{markdown(head, rows)}"


def _cells(found: Mapping[str, Any]) -> tuple[str, ...]:
    resident, cosine = found.get("resident"), found["cosine"]
    activations = (max(by_gpu.values()) for by_gpu in found["activations"].values())
    return (
        " / ".join(map(_mega, found["engine"].values())),
        _mega(found["bundle"]),
        ", ".join(map(_mega, activations)),
        "–" if resident is None else f"{_mega(resident['loaded'])}, {_mega(resident['run'])}",
        f"{cosine['least']:.5f}, {cosine['mean']:.5f}",
    )


def _mega(count: int) -> str:
    return f"{count / 1e6:.0f}"
