"""The committed report of ``make bench-api`` as tables."""

from __future__ import annotations

import json
from statistics import median
from typing import Any

from tests.bench.plan_tables import markdown
from tests.bench.reports import FOLDER

REPORT = FOLDER / "api" / "sample.json"
Report = dict[str, Any]
_TARGETS = {
    "mixed_32_to_in_process": "mixed texts, 32 clients, to the embedder in process",
    "added_ms": "added to the median of a single short text, ms",
    "calls_waited": "calls that a short text waited for, while texts of 8192 tokens wait, at most",
    "wrong_answers": "wrong, lost or swapped answers",
    "memory_growth": "growth of resident memory after warm-up",
    "fuzz_failed": "malformed requests that gave a 5xx or no answer",
}


def load() -> Report:
    """The report."""
    report: Report = json.loads(REPORT.read_text(encoding="utf-8"))
    return report


def speeds() -> str:
    """A row per workload, who answered and clients; medians over rounds."""
    report = load()
    groups: dict[tuple[str, str, int], list[Report]] = {}
    for row in [*report["speeds"], *report["triton"]]:
        groups.setdefault((row["workload"], row["who"], row["clients"]), []).append(row)
    rows = [
        (
            workload,
            who,
            "" if who == "in process" else str(clients),
            *(f"{median(row[key] for row in found):.1f}" for key in _COLUMNS),
        )
        for (workload, who, clients), found in sorted(groups.items(), key=_order)
    ]
    head = ("texts", "by", "clients", "texts/s", "p50 ms", "p99 ms")
    return "\n\n".join([caption(report), markdown(head, rows), *report.get("notes", ())])


_COLUMNS = ("texts_per_second", "p50_ms", "p99_ms")
_WORKLOADS = ("short", "mixed", "mixed, a fifth bad", "long")
_WHO = ("in process", "HTTP", "Triton")


def _order(item: tuple[tuple[str, str, int], Any]) -> tuple[int, int, int]:
    (workload, who, clients), _ = item
    return _WORKLOADS.index(workload), _WHO.index(who), clients


def caption(report: Report) -> str:
    """Machine, day, what was served, and how much others used the cores."""
    shares = [row["others"] for row in report["speeds"]]
    return (
        f"*{report['machine']}, {report['date']}; {report['bundle']}, {report['rounds']} rounds of "
        f"{report['seconds']:g} s; other processes took {median(shares):.0%} of the cores' time "
        f"(median of the rows; at most {max(shares):.0%})*"
    )


def faults() -> str:
    """What was asked and found, and what became of the requests that were counted."""
    report = load()
    rows = [
        (_TARGETS[name], _bound(target), _number(target["found"]), _met(target))
        for name, target in report["targets"].items()
    ]
    identity, fuzz, killed = (report[name] for name in ("identity", "fuzz", "killed"))
    statuses = ", ".join(f"{count} × {status}" for status, count in fuzz["statuses"].items())
    lost = killed["statuses"].get("503", 0)
    return "\n\n".join(
        [
            caption(report),
            markdown(("", "asked", "found", ""), rows),
            f"{identity['right']} of {identity['requests']} requests had the right vectors, at "
            f"{identity['requests_per_second']:.0f} requests/s. {fuzz['requests']} malformed "
            f"requests took {fuzz['seconds']:.0f} s: {statuses} (None: the client or the server "
            f"hung up). A killed worker was replaced after {killed['replaced_in_s']:.1f} s; {lost} "
            f"of {sum(killed['statuses'].values())} requests of 16 clients got a 503.",
        ]
    )


def _bound(target: Report) -> str:
    at_least = "at_least" in target
    value = target["at_least"] if at_least else target["at_most"]
    return f"at {'least' if at_least else 'most'} {_number(value)}"


def _met(target: Report) -> str:
    low, high = target.get("at_least", float("-inf")), target.get("at_most", float("inf"))
    return "met" if low <= target["found"] <= high else "missed"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3g}"
