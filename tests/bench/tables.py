"""Tables of figures in the documents, from the committed reports.

``python -m tests.bench.tables`` writes each anew between ``<!-- figures: NAME -->`` and
``<!-- end -->``; a test fails where a document differs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from tests.bench import (
    api_table,
    conditions,
    control_table,
    embed_table,
    ladder_table,
    operating,
    outputs,
    plan_tables,
    prediction,
    recipe_rivals,
    soak,
    torture_table,
)
from tests.bench.aims import AIMS, against
from tests.bench.plan_tables import markdown
from tests.bench.reports import (
    COLUMNS,
    FOLDER,
    INT8,
    NOT_MEASURED,
    OURS,
    ROOT,
    Report,
    Row,
    caption,
    case_title,
    extra_gb,
    load,
    names,
    not_measured,
    row_of,
)
from tests.interop import client_table

_BLOCK = re.compile(r"<!-- figures: (\S+) -->\n.*?<!-- end -->", re.DOTALL)
_COLUMNS = (
    "Extra memory is a call's peak beyond what was held after loading and one short text. GEMM is "
    "the share of the time that the layers' matrix products would take at the large one's speed"
)
_PYTORCH, _NAIVE, _ST = ("PyTorch FlashAttention", "naive ONNX export", "sentence-transformers")
_BF16_RUN = (
    "adaptrt OpenVINO BF16",
    INT8,
    "adaptrt OpenVINO INT8",
    "PyTorch BF16",
    "PyTorch BF16 compiled",
    "sentence-transformers BF16",
)


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
    rows = [
        (
            row["case"],
            row["contender"],
            f"{row['seconds']:.3f}",
            f"{row['tokens_per_s']:.0f}",
            _times_ours(row),
            _memory(report, row),
            _share(row),
        )
        for row in report["rows"]
    ]
    return "\n\n".join(
        [
            caption(report),
            markdown(head, rows),
            _COLUMNS + (", in the precision that is named." if "ceilings" in report else "."),
            *_below(report, report["rows"]),
            *conditions.lines(report),
            *report.get("notes", ()),
        ]
    )


def _times_ours(row: Row) -> str:
    if "times_ours" not in row:  # adaptrt was not in the run
        return ""
    low, high = row["times_ours_range"]
    return f"{row['times_ours']:.2f} ({low:.2f}–{high:.2f})"


def _share(row: Row) -> str:
    """The share, and of which precision's ceiling; those of the first reports are FP32's."""
    if "gemm_share" not in row:
        return ""
    named = row.get("gemm_ceiling", "").partition(" ")[0]
    return f"{row['gemm_share']:.0%}" + (f" of {named}" if named else "")


def whole(name: str) -> str:
    """All of a committed report."""
    return every(load(name))


def beside(name: str, contenders: Sequence[str]) -> str:
    """Ours in seconds and the others as multiples, with memory: a row per case."""
    report = load(name)
    everyone = (OURS, *contenders)
    rows = []
    for case in COLUMNS:
        found = {c: row_of(report, c, case) for c in everyone}
        if found[OURS] is not None:
            rows.append((case_title(report, case), *(_time(report, row) for row in found.values())))
    shown = [row for row in report["rows"] if row["contender"] in everyone]
    return "\n\n".join(
        [caption(report), markdown(("texts × tokens", *everyone), rows), *_below(report, shown)]
    )


def speeds(name: str, commands: Mapping[str, str]) -> str:
    """Tokens per second and the memory held, a row per contender and what makes it."""
    report = load(name)
    cases = [case for case in COLUMNS if case in _SPEEDS]
    rows = []
    for contender, command in commands.items():
        found = [row_of(report, contender, case) for case in cases]
        held = report["contenders"][contender]["loaded_gb"]
        told = (f"{row['tokens_per_s']:.0f}" if row else "" for row in found)
        rows.append((contender, command, *told, f"{held:.2f} GB"))
    head = ("", "made by", *(case_title(report, case) for case in cases), "memory held")
    return "\n\n".join([markdown(head, rows), f"Tokens per second. {caption(report)}"])


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


def _recipes() -> str:
    from tests.bench.recipes import table  # imports torch

    return table()


_SPEEDS = {"1x128", "1x512", "1x2048", "1x8192", "corpus"}
_CHOICES = {
    "adaptrt OpenVINO INT8": "`TARGET=cpu PRECISION=int8`",
    "adaptrt OpenVINO BF16": "`TARGET=cpu PRECISION=auto`",
    INT8: "`TARGET=onnxruntime PRECISION=int8`",
    OURS: "`TARGET=onnxruntime PRECISION=fp32`",
    "PyTorch BF16 compiled": "`torch.compile`",
    "sentence-transformers BF16": "",
}
BLOCKS: dict[str, Callable[[], str]] = {
    **{name: partial(whole, name) for name in names()},
    "cpu-full-beside": partial(beside, "cpu-full", (_PYTORCH, _NAIVE, _ST)),
    "zen4-full-beside": partial(beside, "zen4-full", (_PYTORCH, INT8)),
    "cpu-speeds": partial(speeds, "zen5-full", _CHOICES),
    "zen5-full-beside": partial(beside, "zen5-full", _BF16_RUN),
    **{name: partial(against, *table) for name, table in AIMS.items()},
    "clients": client_table.table,
    "api-clients": client_table.api_table,
    "prediction-errors": prediction.table,
    "gpus": plan_tables.gpus,
    "vector-types": outputs.grid_table,
    "verdicts": operating.table,
    "gate-controls": control_table.table,
    "recipes": _recipes,
    "ladder": ladder_table.table,
    "rivals": recipe_rivals.table,
    "api-speeds": api_table.speeds,
    "api-faults": api_table.faults,
    "embed-speeds": embed_table.speeds,
    "embed-aims": embed_table.aims,
    "vector-ranges": outputs.ranges_table,
    "soak": soak.table,
    "torture": torture_table.table,
    "torture-found": torture_table.found,
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
    return [
        ROOT / "README.md",
        *sorted(FOLDER.glob("*.md")),
        outputs.PAGE,
        client_table.PAGE,
        client_table.API_PAGE,
        ladder_table.PAGE,
    ]


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
