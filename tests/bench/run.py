"""``make bench``: every contender over every case, alternating, medians and ratios.

Each round starts each contender in a fresh process, so that memory is its own and the machine's
drift falls on all alike. Writes ``bench.json``, ``bench.md`` and ``bench.png``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tests.bench.cases import LENGTHS
from tests.bench.contenders import CONTENDERS, prepare

OURS = "adaptrt"
# Only its cost per call is of interest, and that does not depend on the length.
SKIPPED = {("rebuild per call", case) for case in ("8x512", "corpus", "1x2048", "1x8192")}
Samples = dict[tuple[str, str], list[dict[str, Any]]]


def measure(work: Path, rounds: int, skip: set[tuple[str, str]], timeout: float) -> Samples:
    samples: Samples = defaultdict(list)
    names = [f"1x{n}" for n in LENGTHS[:2]] + ["8x512", "corpus"] + [f"1x{n}" for n in LENGTHS[2:]]
    for number in range(rounds):
        for contender in CONTENDERS:
            cases = [n for n in names if (contender, n) not in skip | SKIPPED]
            command = [sys.executable, "-m", "tests.bench.worker", contender, str(work),
                       "--cases", ",".join(cases)]  # fmt: skip
            print(f"round {number + 1}/{rounds}: {contender}", file=sys.stderr, flush=True)
            process = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
            for line in process.stdout.splitlines():
                row = json.loads(line)
                samples[contender, row["case"]].append(row | {"round": number})
            if process.returncode:
                reason = process.stderr.strip().splitlines()[-1:] or [process.returncode]
                print(f"  stopped: {reason[0]}", file=sys.stderr)
    return samples


def gemm_gflops() -> float:
    """What one large FP32 matrix product reaches on this machine (NumPy's BLAS), GFLOP/s."""
    n = 2048
    a = np.ones((n, n), np.float32)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * n**3 / median(times) / 1e9


def summarise(samples: Samples) -> list[dict[str, Any]]:
    rows = []
    for (contender, case), values in samples.items():
        seconds = [v["seconds"] for v in values]
        ratios = [a / b for a, b in zip(_by_round(values), _by_round(samples[OURS, case]),
                                        strict=False)]  # fmt: skip
        rows.append({
            "contender": contender, "case": case, "runs": len(seconds),
            "seconds": median(seconds), "tokens_per_s": values[0]["tokens"] / median(seconds),
            "peak_gb": max(v["peak"] for v in values) / 1e9,
            "extra_gb": max(v["peak"] - v["loaded"] for v in values) / 1e9,
            "times_ours": median(ratios), "times_ours_range": [min(ratios), max(ratios)],
        })  # fmt: skip
    return rows


def _by_round(values: list[dict[str, Any]]) -> list[float]:
    rounds = sorted({v["round"] for v in values})
    return [median(v["seconds"] for v in values if v["round"] == r) for r in rounds]


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| case | contender | seconds | tokens/s | × adaptrt's time | extra memory |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        low, high = row["times_ours_range"]
        lines.append(
            f"| {row['case']} | {row['contender']} | {row['seconds']:.3f} | "
            f"{row['tokens_per_s']:.0f} | {row['times_ours']:.2f} ({low:.2f}–{high:.2f}) | "
            f"{row['extra_gb']:.2f} GB |"
        )
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), constrained_layout=True)
    for contender in CONTENDERS:
        points = sorted((int(r["case"][2:]), r["seconds"], max(r["extra_gb"], 1e-3)) for r in rows
                        if r["contender"] == contender and r["case"].startswith("1x"))  # fmt: skip
        if points:
            lengths, seconds, memory = zip(*points, strict=True)
            axes[0].plot(lengths, seconds, "o-", label=contender)
            axes[1].plot(lengths, memory, "o-", label=contender)
    for axis, label in zip(axes, ("seconds for one text", "GB beside the weights"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="tokens", ylabel=label)
        axis.set_xticks(LENGTHS, [str(n) for n in LENGTHS])
        axis.grid(alpha=0.3, which="both")
    axes[0].legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "mid", "full"), default="mid")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--skip", default="", help="contender:case, comma separated")
    parser.add_argument("--timeout", type=float, default=3600)
    arguments = parser.parse_args()
    work = arguments.out / arguments.size
    work.mkdir(parents=True, exist_ok=True)
    prepare(work, arguments.size)
    skip = {tuple(pair.split(":", 1)) for pair in arguments.skip.split(",") if pair}
    samples = measure(work, arguments.rounds, skip, arguments.timeout)
    rows = summarise(samples)
    machine = f"{cpu_name()}, {os.cpu_count()} cores"
    report = {"size": arguments.size, "weights": "random", "machine": machine,
              "gemm_gflops": gemm_gflops(), "rounds": arguments.rounds, "rows": rows}  # fmt: skip
    (work / "bench.json").write_text(json.dumps(report, indent=2) + "\n")
    (work / "bench.md").write_text(table(rows) + "\n")
    plot(rows, work / "bench.png", f"{arguments.size} size, random weights, FP32, {machine}")
    print(table(rows))
    print(f"\n{machine}; one large FP32 matrix product: {report['gemm_gflops']:.0f} GFLOP/s")
    print(f"written: {work}/bench.json, bench.md, bench.png")


if __name__ == "__main__":
    main()
