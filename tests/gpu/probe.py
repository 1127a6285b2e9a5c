"""Which libraries are there and whether each can use the GPU; prints one JSON object."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("transformers", "peft", "onnx", "onnxscript", "onnx_ir", "flash_attn")


def torch() -> str:
    import torch as library

    state = "with CUDA" if library.cuda.is_available() else "CUDA not available"
    return f"{library.__version__} {state}"


def onnxruntime() -> str:
    import onnxruntime as library

    return f"{library.__version__} {', '.join(library.get_available_providers())}"


def cuda_python() -> str:
    return str(importlib.import_module("cuda.bindings").__version__)


def tensorrt(flavour: str) -> Callable[[], str]:
    def find() -> str:
        from runtimes.choices import Target
        from runtimes.executors.tensorrt.library import load_tensorrt

        module = load_tensorrt(Target(flavour))
        return f"{module.__name__} {module.__version__}"

    return find


PROBES: dict[str, Callable[[], str]] = {
    "torch": torch,
    "onnxruntime": onnxruntime,
    "cuda-python": cuda_python,
    "tensorrt": tensorrt("tensorrt"),
    "tensorrt_rtx": tensorrt("tensorrt_rtx"),
}


def probe() -> dict[str, str]:
    found: dict[str, Any] = {}
    for name, ask in PROBES.items():
        try:
            found[name] = ask()
        except Exception as error:  # noqa: BLE001  (a broken library must not hide the others)
            found[name] = f"missing: {str(error).splitlines()[0]}"
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            found[name] = "missing: not installed"
            continue
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "of unknown version"
    return found


if __name__ == "__main__":
    print(json.dumps(probe()))
