"""One contender in one process: loads, runs every case, prints a JSON line for each."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from tests.bench.cases import all_cases
from tests.bench.contenders import CONTENDERS


def memory_bytes(field: str) -> int:
    """``VmRSS`` (resident now) or ``VmHWM`` (its peak since :func:`reset_peak`)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(field)


def reset_peak() -> None:
    """Loading takes more memory than running, so the peak starts anew (Linux, proc(5))."""
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("contender")
    parser.add_argument("work", type=Path)
    parser.add_argument("--cases", default="")
    parser.add_argument("--corpus-texts", type=int, required=True)
    arguments = parser.parse_args()
    cases = all_cases(arguments.corpus_texts)
    wanted = arguments.cases.split(",") if arguments.cases else [c.name for c in cases]
    encode = CONTENDERS[arguments.contender].load(arguments.work)
    encode(["Guten Tag"])
    loaded = memory_bytes("VmRSS")
    for case in (c for c in cases if c.name in wanted):
        for _ in range(1 if case.heavy else 3):
            reset_peak()
            start = time.perf_counter()
            encode(case.texts)
            seconds = time.perf_counter() - start
            row = {
                "case": case.name,
                "tokens": case.tokens,
                "seconds": seconds,
                "loaded": loaded,
                "peak": memory_bytes("VmHWM"),
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
