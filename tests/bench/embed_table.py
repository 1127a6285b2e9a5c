"""The committed report of ``make bench-embed`` as tables."""

from __future__ import annotations

import json
from statistics import median
from typing import Any

from tests.bench.plan_tables import markdown
from tests.bench.reports import FOLDER

REPORT = FOLDER / "embed" / "sample.json"
_NOTHING = "*Not measured on a quiet machine yet.*"
_TARGETS = {
    "short_to_encode": "50,000 short texts: tokens/s, to Embedder.encode's",
    "mixed_to_encode": "2,000 mixed texts: tokens/s, to Embedder.encode's",
    "two_workers_to_linear": "two workers of a thread each, to twice one",
    "two_actors_to_linear": "two Ray actors of a thread each, to twice one",
    "memory_of_ten_times_the_corpus": "memory with 1 GB of JSON lines, to that with 0.1 GB",
    "memory_of_1_gb": "bytes resident with 1 GB of JSON lines",
}


def speeds() -> str:
    """A row per corpus and contender; medians over rounds."""
    if not REPORT.is_file():
        return _NOTHING
    report = json.loads(REPORT.read_text(encoding="utf-8"))
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in report["rows"]:
        groups.setdefault((row["corpus"], row["contender"]), []).append(row)
    rows = [
        (
            corpus,
            contender,
            f"{median(row['tokens'] / row['seconds'] for row in found):.0f}",
            _steady(found),
            f"{max(row['peak_bytes'] for row in found) / 2**20:.0f} MiB",
        )
        for (corpus, contender), found in sorted(groups.items())
    ]
    head = ("texts", "by", "tokens/s", "between the parts", "memory")
    return "\n\n".join([caption(report), markdown(head, rows)])


def _steady(found: list[dict[str, Any]]) -> str:
    known = [row["steady"] for row in found if row["steady"] is not None]
    return f"{median(known):.0f}" if known else ""


def caption(report: dict[str, Any]) -> str:
    """Machine, day, what embedded, and how much others used the cores."""
    shares = [row["others"] for row in report["rows"] if "others" in row]
    scale = "" if report["scale"] == 1 else f", {report['scale']:g} of the texts"
    return (
        f"*{report['machine']}, {report['date']}; {report['bundle']}, {report['rounds']} rounds"
        f"{scale}; other processes took {median(shares):.0%} of the cores' time (median of the "
        f"rows; at most {max(shares):.0%})*"
    )


def aims() -> str:
    """What was asked, and found."""
    if not REPORT.is_file():
        return _NOTHING
    report = json.loads(REPORT.read_text(encoding="utf-8"))
    rows = [
        (_TARGETS[name], _bound(target), f"{target['found']:g}", _met(target))
        for name, target in report["targets"].items()
    ]
    return "\n\n".join([caption(report), markdown(("", "asked", "found", ""), rows)])


def _bound(target: dict[str, float]) -> str:
    if "least" in target:
        return f"at least {target['least']:g}"
    return f"at most {target['most']:g}"


def _met(target: dict[str, float]) -> str:
    within = target.get("least", 0) <= target["found"] <= target.get("most", float("inf"))
    return "met" if within else "**missed**"
