"""Tables of figures in the documents, from the committed reports.

``python -m tests.bench.tables`` writes each anew between ``<!-- figures: NAME -->`` and
``<!-- end -->``; a test fails where a document differs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.bench import outputs, plan_tables, prediction
from tests.bench.plan_tables import markdown
from tests.bench.reports import (
    FOLDER,
    INT8,
    NOT_MEASURED,
    OURS,
    ROOT,
    Report,
    Row,
    extra_gb,
    load,
    machine,
    model,
    names,
    not_measured,
    ratio,
    row_of,
)
from tests.interop import client_table

_BLOCK = re.compile(r"<!-- figures: (\S+) -->\n.*?<!-- end -->", re.DOTALL)
_CASES = ("1x128", "1x512", "1x2048", "8x512", "1x8192", "corpus")
_COLUMNS = (
    "Extra memory is a call's peak beyond what was held after loading and one short text. GEMM is "
    "the share of the time that the layers' matrix products would take at the large one's speed."
)
_PYTORCH, _NAIVE, _ST = ("PyTorch FlashAttention", "naive ONNX export", "sentence-transformers")


def every(report: Report) -> str:
    """All rows, whose memory was not measured and why, and what else is to be known."""
    head = (
        "case",
        "contender",
        "seconds",
        "tokens/s",
        "× adaptrt's time (rounds)",
        "extra memory",
        "GEMM",
    )
    rows = []
    for row in report["rows"]:
        low, high = row["times_ours_range"]
        rows.append(
            (
                row["case"],
                row["contender"],
                f"{row['seconds']:.3f}",
                f"{row['tokens_per_s']:.0f}",
                f"{row['times_ours']:.2f} ({low:.2f}–{high:.2f})",
                _memory(report, row),
                f"{row['gemm_share']:.0%}",
            )
        )
    return "\n\n".join(
        [
            _caption(report),
            markdown(head, rows),
            _COLUMNS,
            *_below(report, report["rows"]),
            *report.get("notes", ()),
        ]
    )


def whole(name: str) -> str:
    """All of a committed report."""
    return every(load(name))


def beside(name: str, contenders: Sequence[str]) -> str:
    """Ours in seconds and the others as multiples, with memory: a row per case."""
    report = load(name)
    everyone = (OURS, *contenders)
    rows = []
    for case in _CASES:
        found = {c: row_of(report, c, case) for c in everyone}
        if found[OURS] is not None:
            rows.append((_title(report, case), *(_time(report, row) for row in found.values())))
    shown = [row for row in report["rows"] if row["contender"] in everyone]
    return "\n\n".join(
        [_caption(report), markdown(("texts × tokens", *everyone), rows), *_below(report, shown)]
    )


@dataclass(frozen=True)
class Aim:
    """How many times faster one of ours is than another, or its share of the other's memory.

    ``cases`` gives the target of each, or None where there is none.
    """

    title: str
    ours: str
    other: str
    cases: Mapping[str, float | None]
    memory: bool = False

    def measured(self, report: Report, case: str) -> float | None:
        if not self.memory:
            return ratio(report, self.other, self.ours, case)
        rows = [row_of(report, who, case) for who in (self.ours, self.other)]
        ours, other = (extra_gb(report, row) if row else None for row in rows)
        return None if ours is None or other is None else ours / other


def against(name: str, aims: Sequence[Aim]) -> str:
    """What was reached, with the target in brackets."""
    report = load(name)
    cases = [case for case in _CASES if any(case in aim.cases for aim in aims)]
    rows = [(aim.title, *(_reached(report, aim, case) for case in cases)) for aim in aims]
    head = ("times as fast as (target)", *(_title(report, case) for case in cases))
    return f"{_caption(report)}\n\n{markdown(head, rows)}"


def _reached(report: Report, aim: Aim, case: str) -> str:
    if case not in aim.cases:
        return ""
    value, target = aim.measured(report, case), aim.cases[case]
    shown = NOT_MEASURED if value is None else f"{value:.2f}"
    return shown if target is None else f"{shown} ({target:g})"


def _caption(report: Report) -> str:
    return f"*{machine(report)}; {model(report)}*"


def _title(report: Report, case: str) -> str:
    return f"{report['corpus_texts']} texts" if case == "corpus" else case.replace("x", " × ")


def _time(report: Report, row: Row | None) -> str:
    if row is None:
        return ""
    seconds = f"{row['seconds']:#.3g}".rstrip(".")
    time = f"{seconds} s" if row["contender"] == OURS else f"{row['times_ours']:.2f} ×"
    return f"{time}, {_memory(report, row)}"


def _memory(report: Report, row: Row) -> str:
    gb = extra_gb(report, row)
    return NOT_MEASURED if gb is None else f"{gb:.2f} GB"


def _below(report: Report, rows: Iterable[Row]) -> list[str]:
    reasons = not_measured(report, rows)
    return [f"Memory not measured: {'; '.join(reasons)}."] if reasons else []


_ANY = dict.fromkeys(("1x128", "1x512", "1x2048", "8x512", "1x8192"))
BLOCKS: dict[str, Callable[[], str]] = {
    **{name: partial(whole, name) for name in names()},
    "cpu-full-beside": partial(beside, "cpu-full", (_PYTORCH, _NAIVE, _ST)),
    "zen4-full-beside": partial(beside, "zen4-full", (_PYTORCH, INT8)),
    "cpu-full-aims": partial(
        against,
        "cpu-full",
        (
            Aim(
                _PYTORCH, OURS, _PYTORCH, {"1x128": 2.5, "1x512": 2.2, "1x2048": 1.9, "1x8192": 2.4}
            ),
            Aim(_NAIVE, OURS, _NAIVE, {"1x128": 1.5, "1x512": 1.15, "1x2048": 1.5, "1x8192": 6}),
            Aim(
                "extra memory as a share of the naive export's",
                OURS,
                _NAIVE,
                {"1x2048": 0.25, "1x8192": 0.05},
                memory=True,
            ),
            Aim(_ST, OURS, _ST, {"corpus": 3}),
        ),
    ),
    "cpu-mid-aims": partial(against, "cpu-mid", (Aim(f"{_PYTORCH}, INT8", INT8, _PYTORCH, _ANY),)),
    "zen4-full-aims": partial(
        against,
        "zen4-full",
        (
            Aim(f"{_PYTORCH}, FP32", OURS, _PYTORCH, _ANY),
            Aim(
                f"{_PYTORCH}, INT8",
                INT8,
                _PYTORCH,
                _ANY | {"1x512": 5, "1x2048": 3.3, "1x8192": 3.4},
            ),
        ),
    ),
    "zen4-mid-aims": partial(
        against,
        "zen4-mid",
        (
            Aim(f"{_PYTORCH}, FP32", OURS, _PYTORCH, _ANY),
            Aim(f"{_PYTORCH}, INT8", INT8, _PYTORCH, _ANY),
            Aim(f"{_ST}, FP32", OURS, _ST, {"corpus": None}),
            Aim(f"{_ST}, INT8", INT8, _ST, {"corpus": None}),
        ),
    ),
}


BLOCKS |= {
    "clients": client_table.table,
    "prediction-errors": prediction.table,
    "gpus": plan_tables.gpus,
    "vector-types": outputs.grid_table,
    "vector-ranges": outputs.ranges_table,
    **{
        f"{name}-{size}": partial(plan_tables.block, size, table)
        for size in ("sample", "full")
        for name, table in (
            ("plans", plan_tables.engines),
            ("predicted", plan_tables.predicted),
            ("worth", plan_tables.worth),
        )
    },
}


def documents() -> list[Path]:
    """Those whose tables are made here."""
    return [*sorted(FOLDER.glob("*.md")), outputs.PAGE, client_table.PAGE]


def updated(text: str) -> str:
    """A document with its tables as the reports give them. Raises KeyError for an unknown one."""
    return _BLOCK.sub(
        lambda found: f"<!-- figures: {found[1]} -->\n\n{BLOCKS[found[1]]()}\n\n<!-- end -->", text
    )


def main() -> None:
    for path in documents():
        text = path.read_text(encoding="utf-8")
        if (new := updated(text)) != text:
            path.write_text(new, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
