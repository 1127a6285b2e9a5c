"""Tables of figures in the documents, from the committed reports.

``make figures`` (:mod:`tests.bench.figures`) writes each anew between ``<!-- figures: NAME -->``
and ``<!-- end -->``, with a line on where it comes from; ``make figures-check`` finds one that
differs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.bench import (
    api_table,
    build,
    cluster_table,
    conditions,
    control_table,
    drift_table,
    embed_table,
    ladder_table,
    operating,
    outputs,
    plan_tables,
    prediction,
    proof,
    recipe_rivals,
    recipe_table,
    sizes,
    soak,
    sources,
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


_SPEEDS = {"1x128", "1x512", "1x2048", "1x8192", "corpus"}
_CHOICES = {
    "adaptrt OpenVINO INT8": "`TARGET=cpu PRECISION=int8`",
    "adaptrt OpenVINO BF16": "`TARGET=cpu PRECISION=auto`",
    INT8: "`TARGET=onnxruntime PRECISION=int8`",
    OURS: "`TARGET=onnxruntime PRECISION=fp32`",
    "PyTorch BF16 compiled": "`torch.compile`",
    "sentence-transformers BF16": "",
}


@dataclass(frozen=True)
class Block:
    """A generated table, and the reports below docs/benchmarks that it is made of.

    ``origin`` says where figures come from that are in no report of ours, such as data sheets.
    """

    table: Callable[[], str]
    reports: tuple[str, ...] = ()
    origin: str = ""


_TWO = ("sample.json", "deep.json")
BLOCKS: dict[str, Block] = {
    **{name: Block(partial(whole, name), (f"{name}.json",)) for name in names()},
    "cpu-full-beside": Block(
        partial(beside, "cpu-full", (_PYTORCH, _NAIVE, _ST)), ("cpu-full.json",)
    ),
    "zen4-full-beside": Block(partial(beside, "zen4-full", (_PYTORCH, INT8)), ("zen4-full.json",)),
    "cpu-speeds": Block(partial(speeds, "zen5-full", _CHOICES), ("zen5-full.json",)),
    "zen5-full-beside": Block(partial(beside, "zen5-full", _BF16_RUN), ("zen5-full.json",)),
    **{
        name: Block(partial(against, *table), (f"{table[0]}.json",)) for name, table in AIMS.items()
    },
    "clients": Block(client_table.table, ("../tasks/other-clients.json",)),
    "api-clients": Block(client_table.api_table, ("../tasks/http-api.json",)),
    "prediction-errors": Block(
        prediction.table,
        origin="`tests/bench/bert_times.json`, NVIDIA's published times, by `make figures`",
    ),
    "single-texts": Block(partial(plan_tables.singles, "full"), ("plans/full.json",)),
    "gpus": Block(plan_tables.gpus, origin="data sheets, as `export/engines/gpus.py` has them"),
    "vector-types": Block(outputs.grid_table, ("outputs/sample.json",)),
    "vector-ranges": Block(outputs.ranges_table, ("outputs/sample.json",)),
    "verdicts": Block(operating.table, tuple(f"verdicts/{name}" for name in _TWO)),
    "gate-controls": Block(control_table.table, tuple(f"controls/{name}" for name in _TWO)),
    "recipes": Block(recipe_table.table, ("recipes/recipes.json",)),
    "rivals": Block(recipe_rivals.table, ("recipes/rivals.json",)),
    "ladder": Block(ladder_table.table, ("ladder/full.json",)),
    "api-speeds": Block(api_table.speeds, ("api/sample.json",)),
    "api-faults": Block(api_table.faults, ("api/sample.json",)),
    "embed-speeds": Block(embed_table.speeds, ("embed/sample.json",)),
    "embed-aims": Block(embed_table.aims, ("embed/sample.json",)),
    "builds": Block(build.table, ("builds/builds.json",)),
    "installs": Block(sizes.table, ("builds/sizes.json",)),
    "cluster-hours": Block(cluster_table.table, ("zen5-full.json", "plans/full.json")),
    "proofs": Block(proof.table, proof.names()),
    "drift-healthy": Block(drift_table.healthy_table, ("drift/sample.json",)),
    "drift-least": Block(drift_table.least_table, ("drift/sample.json",)),
    "torture": Block(torture_table.table, ("torture/full.json",)),
    "torture-found": Block(torture_table.found, ("torture/full.json",)),
    "soak": Block(soak.table, ("soak/small.json",)),
    **{
        f"{name}-{size}": Block(partial(plan_tables.block, size, table), (f"plans/{size}.json",))
        for size in ("sample", "full")
        for name, table in (
            ("plans", plan_tables.engines),
            ("predicted", plan_tables.predicted),
            ("worth", plan_tables.worth),
        )
    },
}


def blocks(text: str) -> list[str]:
    """Names of a page's blocks."""
    return [match[1] for match in _BLOCK.finditer(text)]


def updated(text: str, page: Path = FOLDER / "index.md") -> str:
    """A document with its tables as the reports give them. Raises KeyError for an unknown one."""
    return _BLOCK.sub(lambda found: _written(found[1], page), text)


def _written(name: str, page: Path) -> str:
    block = BLOCKS[name]
    source = sources.line(_TREE, page, block.reports, block.origin)
    return f"<!-- figures: {name} -->\n\n{block.table()}\n\n{source}\n\n<!-- end -->"


_TREE = sources.Tree(ROOT)
