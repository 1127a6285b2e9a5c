"""One contender in one process: loads, runs every case, prints a JSON line for each sample.

It may run in another program's environment: what is imported here needs NumPy and nothing else.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from tests.bench.cases import Case, load
from tests.bench.contenders import CONTENDERS
from tests.bench.guard import guarded
from tests.bench.rivals import Encode

# Whose vectors are compared between contenders: two texts, so that a batch is padded.
SHOWN = ("Guten Tag", "A text of some more words, which in a batch has no padding beside it.")
SAMPLES = 3  # of a case
LONG = 6.0  # seconds: a case is sampled once more only while its samples have not taken so long


def memory_bytes(field: str) -> int:
    """``VmRSS`` (resident now) or ``VmHWM`` (its peak since :func:`reset_peak`)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(field)


def reset_peak() -> None:
    """Loading takes more memory than running, so the peak starts anew (Linux, proc(5))."""
    Path("/proc/self/clear_refs").write_text("5")


def timed(encode: Encode, case: Case) -> list[dict[str, Any]]:
    """The samples of a case: three, or fewer where they are long."""
    rows: list[dict[str, Any]] = []
    while len(rows) < SAMPLES and sum(row["seconds"] for row in rows) < LONG:
        sample = guarded(lambda: encode(case.texts), before=reset_peak)
        rows.append(
            {
                "case": case.name,
                "tokens": case.tokens,
                "seconds": sample.seconds,
                "peak": memory_bytes("VmHWM"),
                "thrown_away": sample.disturbed,
                "quiet": sample.quiet,
            }
        )
    return rows


def warm(encode: Encode, cases: list[Case]) -> dict[str, Any]:
    """Run the first text of every case, and say how long the compiler took for them."""
    from torch._dynamo.utils import calculate_time_spent, counters

    start = time.perf_counter()
    for case in cases:
        encode(case.texts[:1])
    return {
        "warming": time.perf_counter() - start,
        "compiling": calculate_time_spent()["total_wall_time"],
        "graphs": counters["stats"]["unique_graphs"],
    }


def say(row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("contender")
    parser.add_argument("work", type=Path)
    parser.add_argument("--texts", type=Path, required=True, help="a file of cases")
    parser.add_argument("--cases", required=True)
    arguments = parser.parse_args()
    wanted = arguments.cases.split(",")
    cases = [case for case in load(arguments.texts) if case.name in wanted]
    contender = CONTENDERS[arguments.contender]
    encode = contender.load(arguments.work)
    vectors = encode(SHOWN)
    loaded = memory_bytes("VmRSS")
    about: dict[str, Any] = {"loaded": loaded, "vectors": vectors.astype(float).round(6).tolist()}
    say(about | (warm(encode, cases) if contender.compiles else {}))
    for case in cases:
        for row in timed(encode, case):
            say(row | {"loaded": loaded})


if __name__ == "__main__":
    main()
