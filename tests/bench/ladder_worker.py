"""Loads one graph in ONNX Runtime, runs one text, and prints what was resident before and after."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from runtimes.executors.ort import OrtRuntime
from tests.bench.worker import memory_bytes


def main() -> None:
    graph, tokens = Path(sys.argv[1]), int(sys.argv[2])
    before = memory_bytes("VmRSS")
    with OrtRuntime(graph) as runtime:
        loaded = memory_bytes("VmRSS")
        ids = np.random.default_rng(0).integers(5, 10_000, (1, tokens))
        for _ in range(3):
            runtime.run({"input_ids": ids, "attention_mask": np.ones_like(ids)})
        print(json.dumps({"python": before, "loaded": loaded, "run": memory_bytes("VmRSS")}))


if __name__ == "__main__":
    main()
