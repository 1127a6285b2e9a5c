"""Throughput and latency of a served sample beside the embedder in process.

Requests of 1 and of 32 texts from 1, 8 and 32 clients over gRPC on this machine; clients, server
and encoder share its cores. The embedder is measured before and after, and the mean taken.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import numpy as np

from adaptrt import Embedder, TritonEmbedder
from export.cli import main as adaptrt
from export.gate.texts import TEXTS
from export.triton.server import ENVIRONMENT, ServerSpec, serve
from tests.bench.summary import machine

TASK = "classification"
CLIENTS = (1, 8, 32)
REQUEST = 32  # texts in a batch request
Row = dict[str, float]


def texts() -> list[str]:
    """The parity gate's 48 texts, 24 languages, in a fixed order that mixes lengths."""
    lines = [json.loads(line)["text"] for line in TEXTS.read_text(encoding="utf-8").splitlines()]
    return [lines[i] for i in np.random.default_rng(0).permutation(len(lines))]


def requests(size: int) -> list[list[str]]:
    """Different requests of ``size`` texts to go round."""
    corpus = texts() * 2
    return [corpus[start : start + size] for start in range(0, 48, max(1, size // 4))]


def measure(clients: Sequence[Callable[[list[str]], object]], size: int, seconds: float) -> Row:
    """Each client sends one request after the other for so long."""
    plan = requests(size)
    waits: list[list[float]] = [[] for _ in clients]
    start = time.perf_counter()

    def work(number: int) -> None:
        index = number
        while time.perf_counter() - start < seconds:
            before = time.perf_counter()
            clients[number](plan[index % len(plan)])
            waits[number].append(time.perf_counter() - before)
            index += 1

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - start
    every = np.concatenate([np.array(w) for w in waits]) * 1000
    return {
        "texts_per_second": every.size * size / spent,
        "p50_ms": float(np.percentile(every, 50)),
        "p99_ms": float(np.percentile(every, 99)),
    }


def direct(bundle: Path, size: int, seconds: float) -> Row:
    """The embedder in this process."""
    with Embedder.load(bundle) as embedder:
        for request in requests(size):  # warm
            embedder.encode(request)
        return measure([embedder.encode], size, seconds)


def served(url: str, size: int, count: int, seconds: float) -> Row:
    """So many clients, each with a connection of its own."""
    clients = [TritonEmbedder(url) for _ in range(count)]
    try:
        for client in clients:
            client.encode(requests(size)[0])
        return measure([client.encode for client in clients], size, seconds)
    finally:
        for client in clients:
            client.close()


def show(name: str, size: int, row: Row) -> None:
    print(
        f"{name:12} {size:5} {row['texts_per_second']:9.0f} {row['p50_ms']:9.1f} "
        f"{row['p99_ms']:9.1f}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=8.0, help="per row")
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT)
    arguments = parser.parse_args()
    bundle = arguments.out / "sample" / f"{TASK}-fp16-onnxruntime"
    if not (bundle / "manifest.json").is_file():
        adaptrt(["engine", "--target", "onnxruntime", "--task", TASK, "--out", str(arguments.out)])
    repository = arguments.out / "model_repository"
    adaptrt(["triton", "--bundle", str(bundle), "--out", str(repository)])
    spec = ServerSpec(
        repository=repository,
        environment=arguments.environment,
        exit_timeout=2,
        http_port=18000,
        grpc_port=18001,
        metrics_port=18002,
    )
    rows: dict[str, Row] = {}
    print(f"{'':12} {'texts':>5} {'texts/s':>9} {'p50 ms':>9} {'p99 ms':>9}")
    before = {size: direct(bundle, size, arguments.seconds) for size in (1, REQUEST)}
    with tempfile.TemporaryDirectory() as folder, serve(spec, Path(folder) / "log"):
        for size in (1, REQUEST):
            for count in CLIENTS:
                name = f"{count} clients"
                rows[f"{name}, {size}"] = served(
                    "grpc://127.0.0.1:18001", size, count, arguments.seconds
                )
                show(name, size, rows[f"{name}, {size}"])
    for size in (1, REQUEST):
        after = direct(bundle, size, arguments.seconds)
        rows[f"direct, {size}"] = {k: (before[size][k] + v) / 2 for k, v in after.items()}
        show("direct", size, rows[f"direct, {size}"])
    best = max(rows[f"{count} clients, {REQUEST}"]["texts_per_second"] for count in CLIENTS)
    overhead = 1 - best / rows[f"direct, {REQUEST}"]["texts_per_second"]
    print(f"overhead of serving at requests of {REQUEST} texts: {overhead:.1%}")
    report = {
        "command": "make bench-serve",
        "machine": machine(),
        "date": date.today().isoformat(),
        "rows": rows,
    }
    (arguments.out / "serve.json").write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
