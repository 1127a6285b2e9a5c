"""``make bench``: every contender over every case, alternating, medians and ratios.

Each round starts each contender in a fresh process, so that memory is its own and the machine's
drift falls on all alike. A case that took over 15 seconds is run in the first round only. Writes
``bench.json``, ``bench.md`` and ``bench.png``.
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
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tests.bench.cases import CASES, LENGTHS
from tests.bench.contenders import CONTENDERS, prepare

OURS = "adaptrt"
# Texts of the mixed corpus by size. In padded batches sentence-transformers needs five minutes
# for 256 of them at mid size, a third of the time the whole run should take.
SIZES = {"sample": 256, "mid": 128, "full": 256}
TOO_SLOW = 15.0  # seconds; not repeated in later rounds
# Each contender runs the cases it is there for. Rebuilding costs the same at any length;
# sentence-transformers, one text at a time, is PyTorch without a pinned kernel.
_ONLY = {
    "PyTorch FlashAttention": ("1x128", "1x512", "1x2048", "8x512", "1x8192"),
    "naive ONNX export": ("1x128", "1x512", "1x2048", "8x512", "1x8192"),
    "sentence-transformers": ("1x128", "1x512", "8x512", "corpus"),
    "rebuild per call": ("1x128", "1x512"),
    "adaptrt switchable": ("1x128", "1x512"),
}
Samples = dict[tuple[str, str], list[dict[str, Any]]]


def measure(work: Path, rounds: int, contenders: Sequence[str], cases: Sequence[str],
            corpus_texts: int, timeout: float) -> tuple[Samples, list[float]]:  # fmt: skip
    """Samples by (contender, case), and the matrix product's GFLOP/s of each round."""
    samples: Samples = defaultdict(list)
    ceilings = []
    skip: set[tuple[str, str]] = set()
    for number in range(rounds):
        ceilings.append(gemm_gflops())
        for contender in contenders:
            mine = _ONLY.get(contender, CASES)
            wanted = [case for case in cases if case in mine and (contender, case) not in skip]
            print(f"round {number + 1}/{rounds}: {contender}", file=sys.stderr, flush=True)
            if not wanted:
                continue
            for row in run_worker(work, contender, wanted, corpus_texts, timeout):
                samples[contender, row["case"]].append(row | {"round": number})
                if row["seconds"] > TOO_SLOW:
                    skip.add((contender, row["case"]))
    return samples, ceilings


def run_worker(
    work: Path, contender: str, cases: Sequence[str], corpus_texts: int, timeout: float
) -> list[dict[str, Any]]:
    """One contender in a process of its own; what it measured before it stopped, if it did."""
    command = [sys.executable, "-m", "tests.bench.worker", contender, str(work),
               "--cases", ",".join(cases), "--corpus-texts", str(corpus_texts)]  # fmt: skip
    process = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    if process.returncode:
        reason = process.stderr.strip().splitlines()[-1:] or [f"exit {process.returncode}"]
        print(f"  stopped: {reason[0]}", file=sys.stderr)
    return [json.loads(line) for line in process.stdout.splitlines()]


def gemm_gflops() -> float:
    """What one large FP32 matrix product reaches in ONNX Runtime on this machine, GFLOP/s."""
    import onnx
    import onnxruntime as ort

    n = 2048
    a = np.ones((n, n), np.float32)
    side = onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [n, n])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["a", "b"], ["c"])], "gemm", [side],
        [onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [n, n])],
        [onnx.numpy_helper.from_array(a, "b")],
    )  # fmt: skip
    opset = onnx.helper.make_opsetid("", 20)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    times = []
    for _ in range(6):
        start = time.perf_counter()
        session.run(None, {"a": a})
        times.append(time.perf_counter() - start)
    return 2 * n**3 / median(times[1:]) / 1e9


def gemm_share(row: dict[str, Any], model: Path, ceiling: float) -> float:
    """The share of that ceiling the layers' four matrix products alone would account for."""
    c = json.loads((model / "config.json").read_text())
    h, ff, layers = c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"]
    flop = 2 * layers * (4 * h * h + 2 * h * ff)  # per token
    return float(row["tokens_per_s"] * flop / 1e9 / ceiling)


def summarise(samples: Samples) -> list[dict[str, Any]]:
    rows = []
    for (contender, case), values in samples.items():
        seconds = [v["seconds"] for v in values]
        against = _by_round(samples.get((OURS, case), values))
        ratios = [a / b for a, b in zip(_by_round(values), against, strict=False)]
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
    lines = ["| case | contender | seconds | tokens/s | × adaptrt's time | extra memory | GEMM |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        low, high = row["times_ours_range"]
        lines.append(
            f"| {row['case']} | {row['contender']} | {row['seconds']:.3f} | "
            f"{row['tokens_per_s']:.0f} | {row['times_ours']:.2f} ({low:.2f}–{high:.2f}) | "
            f"{row['extra_gb']:.2f} GB | {row['gemm_share']:.0%} |"
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
    """The processor with its family and model, which tell generations of one name apart."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    fields = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    if "model name" not in fields:
        return platform.machine()
    family, model = fields.get("cpu family"), fields.get("model")
    return f"{fields['model name']} (family {family}, model {model})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="mid")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one process")
    arguments = parser.parse_args()
    contenders, cases = arguments.only.split(","), arguments.cases.split(",")
    for name, known in (*((c, CONTENDERS) for c in contenders), *((c, CASES) for c in cases)):
        if name not in known:
            parser.error(f"{name!r}: expected one of {', '.join(known)}")
    work = arguments.out / arguments.size
    work.mkdir(parents=True, exist_ok=True)
    prepare(work, arguments.size, contenders)
    samples, ceilings = measure(
        work, arguments.rounds, contenders, cases, SIZES[arguments.size], arguments.timeout
    )
    rows = summarise(samples)
    ceiling = median(ceilings)
    for row in rows:
        row["gemm_share"] = gemm_share(row, work / "model", ceiling)
    machine = f"{cpu_name()}, {os.cpu_count()} cores"
    report = {"size": arguments.size, "weights": "random", "machine": machine,
              "gemm_gflops": ceiling, "rounds": arguments.rounds,
              "corpus_texts": SIZES[arguments.size], "rows": rows}  # fmt: skip
    if arguments.size == "sample":
        report["weights"] = "trained"
    (work / "bench.json").write_text(json.dumps(report, indent=2) + "\n")
    (work / "bench.md").write_text(table(rows) + "\n")
    title = f"{arguments.size} size, {report['weights']} weights, FP32, {machine}"
    plot(rows, work / "bench.png", title)
    print(table(rows))
    print(f"\n{title}; one large FP32 matrix product: {ceiling:.0f} GFLOP/s")
    print(f"written: {work}/bench.json, bench.md, bench.png")


if __name__ == "__main__":
    main()
