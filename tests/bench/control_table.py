"""The table of the parity gate's negative controls, from the committed reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calibration.evidence import Outcome
from runtimes.choices import Precision
from runtimes.schemes import SCHEMES
from tests.bench.plan_tables import markdown
from tests.bench.reports import FOLDER

REPORTS = FOLDER / "controls"  # the committed ones, a file for each checkpoint
Figures = Mapping[str, Any]


def table() -> str:
    """The committed reports."""
    return "\n\n".join(table_of(path) for path in sorted(REPORTS.glob("*.json"), reverse=True))


def table_of(path: Path) -> str:
    """A row for each control."""
    report = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        (
            name,
            found["outcome"],
            str(found["queries"]),
            f"{found['least']:.4f} / {found['mean']:.4f}",
            by_cosine(found),
        )
        for name, found in report["controls"].items()
    ]
    widths = " and ".join(map(str, report["widths"]))
    caption = f"*{path.stem}, {widths} dimensions; {report['machine']}, {report['date']}*"
    head = ("control", "by quality", "at queries", "least / mean cosine", "by cosines")
    return f"{caption}\n\n{markdown(head, rows)}"


def by_cosine(found: Figures) -> str:
    """What cosines alone say, by INT4W's limits, the widest that there are."""
    scheme = SCHEMES[Precision.INT4W]
    within = found["least"] >= scheme.min_cosine and found["mean"] >= scheme.mean_cosine
    return str(Outcome.ACCEPTED if within else Outcome.REFUSED)
