"""From samples to the rows of a report."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tests.bench import ceilings
from tests.bench.ceilings import Ceilings
from tests.bench.contenders import CONTENDERS
from tests.bench.reports import OURS

Row = dict[str, Any]
# By family and model of the processor; a name alone does not tell them apart.
GENERATIONS = {
    (25, range(0x10, 0x20)): "Zen 4",
    (25, range(0xA0, 0xB0)): "Zen 4",
    (26, range(0x100)): "Zen 5",
}


@dataclass
class Samples:
    """What the workers of a run said.

    ``cases`` by (contender, case); ``about`` a contender's lines on itself, one a process;
    ``order`` in which each round started the contenders; ``stopped`` why one ended early.
    """

    cases: dict[tuple[str, str], list[Row]] = field(default_factory=dict)
    about: dict[str, list[Row]] = field(default_factory=dict)
    ceilings: list[Ceilings] = field(default_factory=list)
    order: list[list[str]] = field(default_factory=list)
    stopped: dict[str, str] = field(default_factory=dict)

    def add(self, contender: str, number: int, lines: list[Row]) -> None:
        """The lines of one process: the first on itself, the others a sample each."""
        if lines:
            self.about.setdefault(contender, []).append(lines[0])
        for row in lines[1:]:
            self.cases.setdefault((contender, row["case"]), []).append(row | {"round": number})


def rows(samples: Samples) -> list[Row]:
    """One for each contender and case, in the order of the table of contenders."""
    places = {name: place for place, name in enumerate(CONTENDERS)}
    keys = sorted(samples.cases, key=lambda key: places[key[0]])
    return [_row(samples, *key) for key in keys]


def _row(samples: Samples, contender: str, case: str) -> Row:
    values = samples.cases[contender, case]
    mine = _by_round(values)
    ours = _by_round(samples.cases.get((OURS, case), []))
    ratios = [mine[number] / ours[number] for number in mine if number in ours]
    seconds = median(v["seconds"] for v in values)
    return {
        "contender": contender,
        "case": case,
        "runs": len(values),
        "thrown_away": sum(v["thrown_away"] for v in values),
        "disturbed": sum(not v["quiet"] for v in values),
        "seconds": seconds,
        "seconds_by_round": {str(number): mine[number] for number in mine},
        "tokens_per_s": values[0]["tokens"] / seconds,
        "peak_gb": max(v["peak"] for v in values) / 1e9,
        "extra_gb": max(v["peak"] - v["loaded"] for v in values) / 1e9,
        **({} if not ratios else _times_ours(ratios)),
    }


def _times_ours(ratios: list[float]) -> Row:
    return {"times_ours": median(ratios), "times_ours_range": [min(ratios), max(ratios)]}


def _by_round(values: list[Row]) -> dict[int, float]:
    numbers = sorted({v["round"] for v in values})
    return {n: median(v["seconds"] for v in values if v["round"] == n) for n in numbers}


def gemm_share(row: Row, model: Path, gflops: float) -> float:
    """The share of the time that the layers' four matrix products alone would take at a speed."""
    c = json.loads((model / "config.json").read_text())
    h, ff, layers = c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"]
    flop = 2 * layers * (4 * h * h + 2 * h * ff)  # per token
    return float(row["tokens_per_s"] * flop / 1e9 / gflops)


def add_shares(table: list[Row], model: Path, measured: Ceilings) -> None:
    """Each row's share at the highest speed of its contender's precision, and whose that is."""
    for row in table:
        precision = CONTENDERS[row["contender"]].precision
        if (found := ceilings.highest(measured, precision)) is not None:
            row["gemm_ceiling"], gflops = found
            row["gemm_share"] = gemm_share(row, model, gflops)


def agreement(samples: Samples) -> tuple[str, dict[str, float]] | None:
    """Each contender's least cosine to the FP32 one that is first in the table, and which it is.

    Of two texts, in the first process. The one that switches tasks is not comparable.
    """
    vectors = {
        name: np.array(samples.about[name][0]["vectors"])
        for name, contender in CONTENDERS.items()
        if name in samples.about and contender.comparable
    }
    base = next((name for name in vectors if CONTENDERS[name].precision == "FP32"), None)
    if base is None:
        return None
    return base, {name: _least_cosine(v, vectors[base]) for name, v in vectors.items()}


def _least_cosine(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return round(float(((a * b).sum(axis=1) / lengths).min()), 6)


def per_contender(samples: Samples) -> dict[str, Row]:
    """Memory after loading, and what compiling took where something was compiled."""
    found = {}
    for name in (n for n in CONTENDERS if n in samples.about):
        lines = samples.about[name]
        found[name] = {"loaded_gb": median(line["loaded"] for line in lines) / 1e9}
        for key in ("compiling", "warming", "graphs"):
            if key in lines[0]:
                found[name][key] = median(line[key] for line in lines)
    return found


def cpu_name() -> str:
    """The processor with its generation, family and model: names alone do not tell them apart."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    fields = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    if "model name" not in fields:
        return platform.machine()
    family, model = int(fields.get("cpu family", 0)), int(fields.get("model", 0))
    known = (g for (f, models), g in GENERATIONS.items() if f == family and model in models)
    generation = "".join(f"{name}: " for name in known)
    return f"{fields['model name']} ({generation}family {family}, model {model})"


def machine() -> str:
    return f"{cpu_name()}, {os.cpu_count()} cores"
