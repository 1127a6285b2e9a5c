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
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tests.bench.cases import CASES
from tests.bench.contenders import CONTENDERS, prepare
from tests.bench.plots import save
from tests.bench.reports import OURS
from tests.bench.tables import every

# Texts of the mixed corpus by size. In padded batches sentence-transformers needs five minutes
# for 256 of them at mid size, a third of the time the whole run should take.
SIZES = {"sample": 256, "mid": 128, "full": 256}
TOO_SLOW = 15.0  # seconds; not repeated in later rounds
Samples = dict[tuple[str, str], list[dict[str, Any]]]


def measure(
    work: Path,
    rounds: int,
    contenders: Sequence[str],
    cases: Sequence[str],
    corpus_texts: int,
    timeout: float,
) -> tuple[Samples, list[float]]:
    """Samples by (contender, case), and the matrix product's GFLOP/s of each round."""
    samples: Samples = defaultdict(list)
    ceilings = []
    skip: set[tuple[str, str]] = set()
    for number in range(rounds):
        ceilings.append(gemm_gflops())
        for contender in contenders:
            mine = CONTENDERS[contender].cases
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
    command = [
        sys.executable,
        "-m",
        "tests.bench.worker",
        contender,
        str(work),
        "--cases",
        ",".join(cases),
        "--corpus-texts",
        str(corpus_texts),
    ]
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
        [onnx.helper.make_node("MatMul", ["a", "b"], ["c"])],
        "gemm",
        [side],
        [onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [n, n])],
        [onnx.numpy_helper.from_array(a, "b")],
    )
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
        rows.append(
            {
                "contender": contender,
                "case": case,
                "runs": len(seconds),
                "seconds": median(seconds),
                "tokens_per_s": values[0]["tokens"] / median(seconds),
                "peak_gb": max(v["peak"] for v in values) / 1e9,
                "extra_gb": max(v["peak"] - v["loaded"] for v in values) / 1e9,
                "times_ours": median(ratios),
                "times_ours_range": [min(ratios), max(ratios)],
            }
        )
    return rows


def _by_round(values: list[dict[str, Any]]) -> list[float]:
    rounds = sorted({v["round"] for v in values})
    return [median(v["seconds"] for v in values if v["round"] == r) for r in rounds]


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
    report = {
        "size": arguments.size,
        "weights": "trained" if arguments.size == "sample" else "random",
        "machine": f"{cpu_name()}, {os.cpu_count()} cores",
        "date": date.today().isoformat(),
        "gemm_gflops": ceiling,
        "rounds": arguments.rounds,
        "corpus_texts": SIZES[arguments.size],
        "rows": rows,
    }
    (work / "bench.json").write_text(json.dumps(report, indent=2) + "\n")
    (work / "bench.md").write_text(every(report) + "\n")
    save(report, work / "bench.png")
    print(every(report))
    print(f"written: {work}/bench.json, bench.md, bench.png")


if __name__ == "__main__":
    main()
