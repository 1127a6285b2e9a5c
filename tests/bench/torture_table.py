"""The committed report of ``make torture`` as tables."""

from __future__ import annotations

import json
from typing import Any

from tests.bench.plan_tables import markdown
from tests.bench.reports import FOLDER

REPORT = FOLDER / "torture" / "full.json"


def table() -> str:
    """A row per trial: its seed, how many cases, how they ended."""
    report = _report()
    rows = [
        (
            trial["name"],
            str(trial["seed"]),
            _cases(sum(trial["ended"].values()), trial["asked"]),
            ", ".join(f"{count} {end}" for end, count in trial["ended"].items()),
            str(len(trial["failures"])),
            f"{trial['seconds'] / 60:.1f}",
            f"{trial['peak_mb']:.0f}",
        )
        for trial in report["trials"]
    ]
    head = ("trial", "seed", "cases", "how they ended", "failed", "minutes", "most memory, MB")
    caption = f"*{report['machine']}, {report['date']}, beside other work*"
    return "\n\n".join([markdown(head, rows), caption])


def found() -> str:
    """What earlier runs found, each with the test that keeps it mended."""
    rows = [
        (entry["trial"], entry["seen"], entry["now"], f"`{entry['test']}`")
        for entry in _report()["found"]
    ]
    return markdown(("trial", "seen", "now", "test"), rows)


def _cases(tried: int, asked: int) -> str:
    return str(tried) if tried == asked else f"{tried} of {asked}"


def _report() -> dict[str, Any]:
    report: dict[str, Any] = json.loads(REPORT.read_text(encoding="utf-8"))
    return report
