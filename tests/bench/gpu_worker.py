"""One executor in one process: loads, gives vectors to compare, is timed; prints one JSON object.

``python -m tests.bench.gpu_worker torch MODEL --precision fp16 --vectors OUT.npz``, which is
PyTorch's FlashAttention-2 kernel (``flash_attn``: that of the package of this name), or with a
runtime's name (``onnxruntime_cuda``, ``tensorrt``, …) and a bundle.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from runtimes.errors import AdaptrtError, MissingError
from runtimes.executors.base import Runtime
from tests.bench.gpu import OF_TORCH, TIMED
from tests.bench.gpu_cases import Inputs, compared, full

WARM_UPS, LEAST_RUNS, SECONDS = 5, 10, 1.5


def open_torch(model: Path, precision: str, device: str, executor: str = "torch") -> Runtime:
    """The transformers model through a FlashAttention-2 kernel, equal lengths together."""
    import torch

    from export.checkpoint.reader import open_checkpoint
    from export.gate.reference import reference_model
    from runtimes.executors.torch_reference import FlashReference, Kernel

    kernel = {"torch": Kernel.FLASH, "flash_attn": Kernel.FLASH_ATTENTION_2}[executor]
    if kernel is Kernel.FLASH_ATTENTION_2 and importlib.util.find_spec("flash_attn") is None:
        raise MissingError("flash-attn is not installed; pip install 'adaptrt[flash]'")
    if device == "cuda":
        if not torch.cuda.is_available():
            raise MissingError(f"torch {torch.__version__} cannot use CUDA")
        if (capability := torch.cuda.get_device_capability()) < (8, 0):
            raise MissingError(f"FlashAttention-2 needs sm80 or newer, got capability {capability}")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(precision, torch.float16)
    return FlashReference(
        reference_model(open_checkpoint(model), "base"), device=device, dtype=dtype, kernel=kernel
    )


def open_bundle(bundle: Path, runtime: str) -> Runtime:
    from adaptrt import Embedder

    return Embedder.load(bundle, runtime=runtime).runtime


def seconds_of(runtime: Runtime, inputs: Inputs, budget: float = SECONDS) -> list[float]:
    """Wall times of single calls, from ids in host memory to vectors in host memory."""
    for _ in range(WARM_UPS):
        runtime.run(inputs)
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < LEAST_RUNS or time.perf_counter() - begin < budget:
        start = time.perf_counter()
        runtime.run(inputs)
        times.append(time.perf_counter() - start)
    return times


def measure(runtime: Runtime, names: list[str], budget: float = SECONDS) -> dict[str, Any]:
    """Per case; a case that fails says why and the others go on."""
    found: dict[str, Any] = {}
    for name in names:
        rows, tokens = TIMED[name]
        try:
            times = seconds_of(runtime, full(rows, tokens), budget)
        except (AdaptrtError, RuntimeError) as error:  # torch raises RuntimeError
            found[name] = {"error": str(error).splitlines()[0]}
            continue
        found[name] = {
            "seconds": median(times),
            "runs": len(times),
            "least": min(times),
            "tokens_per_second": rows * tokens / median(times),
        }
    return found


def vectors_of(runtime: Runtime, longest: int) -> dict[str, Any]:
    return {
        name: runtime.run(inputs)["sentence_embedding"]
        for name, inputs in compared(longest).items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("executor")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--device", default="cuda", help="of torch")
    parser.add_argument("--vectors", type=Path, help="write them there, instead of being timed")
    parser.add_argument("--cases", default=",".join(TIMED))
    parser.add_argument("--longest", type=int, default=8192)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args()
    try:
        start = time.perf_counter()
        if options.executor in OF_TORCH:
            runtime = open_torch(
                options.folder, options.precision, options.device, options.executor
            )
        else:
            runtime = open_bundle(options.folder, options.executor)
        report: dict[str, Any] = {"name": runtime.name, "load_seconds": time.perf_counter() - start}
        if memory := getattr(runtime, "profile_memory", None):
            report["profile_memory"] = memory()
        with runtime:
            if options.vectors:
                np.savez(options.vectors, **vectors_of(runtime, options.longest))
            else:
                report["cases"] = measure(runtime, options.cases.split(","), options.seconds)
    except AdaptrtError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
