"""Under what a report was measured: lines below its table."""

from __future__ import annotations

from typing import Any

from tests.bench.guard import MAX_SHARE, REPEATS

Report = dict[str, Any]


def lines(report: Report) -> list[str]:
    """Those that a report has something for: the reports of 2026-11-21 have nothing."""
    found = (_ceilings(report), _disturbed(report), _compiling(report), _cosines(report))
    return [line for line in (*found, *_left_out(report)) if line]


def _ceilings(report: Report) -> str:
    if not (ceilings := report.get("ceilings")):
        return ""
    shapes = " / ".join(next(iter(ceilings.values())))
    speeds = [
        f"{name} {' / '.join(f'{speed:.0f}' for speed in found.values())}"
        for name, found in ceilings.items()
    ]
    used = dict.fromkeys(row["gemm_ceiling"] for row in report["rows"] if "gemm_ceiling" in row)
    return (
        f"Matrix products in GFLOP/s at {shapes}: {'; '.join(speeds)}. "
        f"GEMM is of {', '.join(used)}, the fastest of each precision at the first shape."
    )


def _disturbed(report: Report) -> str:
    """How many samples were thrown away; who has some that were disturbed each time."""
    rows = [row for row in report["rows"] if "thrown_away" in row]
    if not rows:
        return ""
    thrown = _sums(rows, "thrown_away")
    text = (
        f"A sample in which other processes took more than {MAX_SHARE:.0%} of the cores' time was "
        f"thrown away and taken again, at most {REPEATS} times: {_counted(thrown)}."
    )
    if kept := _sums(rows, "disturbed"):
        text += f" Disturbed each time, the least disturbed kept: {_counted(kept)}."
    return text


def _sums(rows: list[dict[str, Any]], key: str) -> dict[str, int]:
    sums: dict[str, int] = {}
    for row in (row for row in rows if row[key]):
        sums[row["contender"]] = sums.get(row["contender"], 0) + row[key]
    return sums


def _counted(sums: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sums.items()) or "none was"


def _compiling(report: Report) -> str:
    told = [
        f"{name} compiled for {about['compiling']:.0f} s ({about['graphs']:.0f} graphs) and first "
        f"ran every case in {about['warming']:.0f} s, before its samples"
        for name, about in report.get("contenders", {}).items()
        if "compiling" in about
    ]
    return f"{'; '.join(told)}." if told else ""


def _cosines(report: Report) -> str:
    least = {
        name: cosine
        for name, cosine in report.get("least_cosine", {}).items()
        if name != report["cosine_to"]
    }
    if not least:
        return ""
    told = ", ".join(f"{name} {cosine:.6f}" for name, cosine in least.items())
    return f"Least cosine to {report['cosine_to']}, two texts: {told}."


def _left_out(report: Report) -> list[str]:
    """Who was not run at all, and who stopped early."""
    titles = {"skipped": "Not run", "stopped": "Stopped early"}
    return [
        f"{title}: {'; '.join(f'{name}: {why}' for name, why in report[key].items())}."
        for key, title in titles.items()
        if report.get(key)
    ]
