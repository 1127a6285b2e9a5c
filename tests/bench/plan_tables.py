"""Tables of the plans that ``make plans`` wrote, and of how far predictions are off."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from export.engines.gpus import GPUS
from export.engines.predict import MIN_GAIN, PREDICTED
from tests.bench.reports import FOLDER

PLANS = FOLDER / "plans"
_SIZES = {"sample": "The embedded sample", "full": "Random weights at the real model's size"}
Report = Mapping[str, Any]


def known() -> list[str]:
    """The sizes that a report is committed of."""
    return [size for size in _SIZES if (PLANS / f"{size}.json").is_file()]


def block(size: str, table: Callable[[str], str]) -> str:
    """A table of a size, or how to make its report."""
    return table(size) if size in known() else f"{_SIZES[size]}: not built yet; `make plans`."


def load_plans(size: str) -> Report:
    """A committed report of ``make plans``."""
    report: Report = json.loads((PLANS / f"{size}.json").read_text(encoding="utf-8"))
    return report


def engines(size: str) -> str:
    """What the engines execute; architectures with the same plan share a row."""
    report = load_plans(size)
    loads = list(report["engines"][0]["loads"])
    grouped: dict[tuple[str, ...], list[str]] = {}
    for engine in report["engines"]:
        row = (
            engine["case"],
            _counted(engine["products"]),
            f"{engine['attentions']}, in {', '.join(engine['accumulators'])}",
            f"{engine['launches']} ({engine['per_layer']})",
            str(engine["streams"]),
            *(f"{engine['loads'][load]['megabytes']:.0f}" for load in loads),
        )
        grouped.setdefault(row, []).append(engine["gpu"])
    head = (
        "bundle",
        "engines",
        "matrix products, activation × weight",
        "fused attention",
        "launches (in a layer)",
        "streams",
        *(f"MB moved, {_call(load)}" for load in loads),
    )
    rows = [(row[0], ", ".join(gpus), *row[1:]) for row, gpus in grouped.items()]
    return f"{_caption(report, size)}\n\n{markdown(head, rows)}"


def predicted(size: str) -> str:
    """The predicted milliseconds: a table for each load."""
    report = load_plans(size)
    times = {(row["gpu"], row["case"]): row for row in report["predicted"]}
    cases = list(dict.fromkeys(engine["case"] for engine in report["engines"]))
    parts = [_caption(report, size, f"**{PREDICTED}**, milliseconds")]
    for load in report["engines"][0]["loads"]:
        rows = []
        for gpu in dict.fromkeys(gpu for gpu, _ in times):
            cells = [_cell(times.get((gpu, case)), load) for case in cases]
            rows.append((gpu, times[gpu, cases[0]]["of"], *cells))
        parts.append(markdown((_call(load), "plan of", *cases), rows))
    return "\n\n".join(parts)


def _cell(row: Report | None, load: str) -> str:
    return "–" if row is None else f"{row['milliseconds'][load]:#.3g}".rstrip(".")


def worth(size: str) -> str:
    """The lengths at which a quantised engine is predicted to pay."""
    report = load_plans(size)
    rows = []
    for row in report["worth"]:
        lengths = (_range(tokens) for tokens in row["tokens"].values())
        rows.append((row["gpu"], row["case"], *lengths))
    batches = list(report["worth"][0]["tokens"])
    head = ("GPU", "bundle", *(f"calls of {batch}" for batch in batches))
    caption = _caption(report, size, f"**{PREDICTED}**, tokens a text")
    least = f"at least {MIN_GAIN:.0%} less time than FP16; powers of two from 16 to 8192"
    return f"{caption}, {least}\n\n{markdown(head, rows)}"


def singles(size: str) -> str:
    """Of one text by precision: what its call moves, its time, and where the rest is faster."""
    report = load_plans(size)
    cases = ("FP16", "INT8", "INT8W", "INT4W")
    load = next(iter(report["engines"][0]["loads"]))
    moved = {row["case"]: row["loads"][load]["megabytes"] for row in report["engines"]}
    times = {(row["gpu"], row["case"]): row["milliseconds"][load] for row in report["predicted"]}
    worth = {(row["gpu"], row["case"]): row["tokens"]["1"] for row in report["worth"]}
    rows = [(f"MB moved, {_call(load)}", *(f"{moved[case]:.0f}" for case in cases))]
    for gpu in ("L4", "RTX 4090"):
        rows.append((f"ms on {gpu}, {_call(load)}", *(f"{times[gpu, c]:.3g}" for c in cases)))
    for gpu in dict.fromkeys(gpu for gpu, _ in worth):
        found = (worth.get((gpu, case)) for case in cases[1:])
        cells = ("–" if tokens is None else _range(tokens) for tokens in found)
        rows.append((f"faster than FP16 at, {gpu}", "", *cells))
    caption = _caption(report, size, f"**{PREDICTED}**, of calls with one text")
    least = f"“Faster” is at least {MIN_GAIN:.0%}, at so many tokens; powers of two from 16 to 8192"
    return f"{markdown(('', *cases), rows)}\n\n{caption}. {least}."


def gpus() -> str:
    """The data sheets' figures."""
    kinds = {"Half": "FP16, BF16", "Int8": "INT8", "FP8": "FP8", "Float": "FP32"}
    rows = []
    for gpu in GPUS.values():
        peaks = [f"{gpu.tflops[kind]:g}" if kind in gpu.tflops else "–" for kind in kinds]
        row = (gpu.name, gpu.sm, f"{gpu.half_accumulators:g}", *peaks)
        rows.append((*row, f"{gpu.bandwidth:g}", f"{gpu.clock:g}", str(gpu.watts)))
    head = ("GPU", "architecture", "FP16 in FP16", *kinds.values())
    return markdown((*head, "GB/s", "GHz", "W"), rows) + (
        "\n\nTFLOP/s or TOP/s. “FP16 in FP16” adds up in FP16, the others in FP32 or INT32."
    )


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def _range(tokens: Sequence[int]) -> str:
    """ "128 to 2048", or every length where they are not in a row; "none"."""
    if not tokens:
        return "none"
    if all(after == 2 * before for before, after in pairwise(tokens)):
        return str(tokens[0]) if len(tokens) == 1 else f"{tokens[0]} to {tokens[-1]}"
    return ", ".join(str(length) for length in tokens)


def _counted(products: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {types}" for types, count in products.items())


def _call(load: str) -> str:
    return load.replace("x", " × ")


def _caption(report: Report, size: str, what: str = "built, never run") -> str:
    sizes = f"{report['layers']} layers, {report['hidden']} wide"
    return f"{_SIZES[size]} ({sizes}), {report['builder']}, {report['date']}: {what}"
