"""One contender in one process: loads, runs every case, prints a JSON line for each."""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

from tests.bench.cases import all_cases
from tests.bench.contenders import CONTENDERS


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("contender")
    parser.add_argument("work", type=Path)
    parser.add_argument("--cases", default="")
    arguments = parser.parse_args()
    cases = all_cases()
    wanted = arguments.cases.split(",") if arguments.cases else [c.name for c in cases]
    encode = CONTENDERS[arguments.contender](arguments.work)
    encode(["Guten Tag"])
    loaded = peak_bytes()
    for case in (c for c in cases if c.name in wanted):
        for _ in range(1 if case.heavy else 3):
            start = time.perf_counter()
            encode(case.texts)
            seconds = time.perf_counter() - start
            print(json.dumps({"case": case.name, "tokens": case.tokens, "seconds": seconds,
                              "loaded": loaded, "peak": peak_bytes()}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
