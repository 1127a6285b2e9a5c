"""What a report of ``make bench`` says, for every table and picture alike.

The committed reports, docs/benchmarks/NAME.json, are the source of the figures in the documents.
Each is one run on one machine; what another run measured is never put into it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.contenders import CONTENDERS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "benchmarks"
OURS, INT8 = "adaptrt", "adaptrt INT8"
NOT_MEASURED = "not measured"
COLUMNS = ("1x128", "1x512", "1x2048", "8x512", "1x8192", "corpus")  # in the order of columns
_SIZES = {"sample": "sample", "mid": "mid size (6 layers)", "full": "full size (24 layers)"}
Report = dict[str, Any]
Row = dict[str, Any]


def load(name: str) -> Report:
    """A committed report."""
    report: Report = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return report


def names() -> list[str]:
    """Of the committed reports."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def machine(report: Report) -> str:
    """Where and when: no figure stands without it."""
    return (
        f"{report['machine']}, {report['gemm_gflops']:.0f} GFLOP/s in one large FP32 product, "
        f"{report['date']}"
    )


def model(report: Report) -> str:
    """What was run."""
    used = {CONTENDERS[row["contender"]].precision for row in report["rows"]}
    *first, last = (name for name in ("FP32", "BF16", "INT8") if name in used)
    types = " and ".join([", ".join(first), last] if first else [last])
    return (
        f"{_SIZES[report['size']]}, {report['weights']} weights, {types}, {report['rounds']} rounds"
    )


def caption(report: Report) -> str:
    return f"*{machine(report)}; {model(report)}*"


def case_title(report: Report | None, case: str) -> str:
    """A column's head; of the corpus how many texts it had, where a report says that."""
    if case != "corpus":
        return case.replace("x", " × ")
    return f"{report['corpus_texts']} texts" if report else case


def row_of(report: Report, contender: str, case: str) -> Row | None:
    rows = (r for r in report["rows"] if (r["contender"], r["case"]) == (contender, case))
    return next(rows, None)


def memory_flaw(report: Report, contender: str) -> str | None:
    """Why the memory reported for a contender is not to be shown; None where it is right."""
    flaw: str | None = CONTENDERS[contender].memory_flaw
    return flaw or report.get("memory_not_measured", {}).get(contender)


def extra_gb(report: Report, row: Row) -> float | None:
    """Peak memory beyond what was held after loading, GB; None where it was not measured."""
    return None if memory_flaw(report, row["contender"]) else float(row["extra_gb"])


def not_measured(report: Report, rows: Iterable[Row]) -> list[str]:
    """``contender, contender: why`` for those in the rows whose memory was not measured."""
    by_reason: dict[str, list[str]] = {}
    for contender in dict.fromkeys(row["contender"] for row in rows):
        if flaw := memory_flaw(report, contender):
            by_reason.setdefault(flaw, []).append(contender)
    return [f"{', '.join(contenders)}: {reason}" for reason, contenders in by_reason.items()]


def ratio(report: Report, contender: str, base: str, case: str) -> float | None:
    """A contender's time in multiples of the base's; None where one of them did not run the case.

    The median over rounds, which the machine's drift moves least, where the report holds the
    rounds: all do against adaptrt in FP32, those of 2026-11-21 against no other. There it is the
    quotient of medians.
    """
    above, below = row_of(report, contender, case), row_of(report, base, case)
    if above is None or below is None:
        return None
    if base == OURS:
        return float(above["times_ours"])
    rounds, others = (row.get("seconds_by_round", {}) for row in (above, below))
    if ratios := [rounds[number] / others[number] for number in rounds if number in others]:
        return float(median(ratios))
    return float(above["seconds"] / below["seconds"])
