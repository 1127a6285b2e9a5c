"""Runs the executor and the refit against real TensorRT bindings, either flavour, with no GPU.

Used in-process for TensorRT-RTX and by :mod:`tests.unit.tensorrt_contract` for TensorRT 11.4.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from runtimes.errors import AdaptrtError
from runtimes.executors.tensorrt.cuda import Cuda
from runtimes.executors.tensorrt.engine import EngineFile
from runtimes.executors.tensorrt.runtime import TrtRuntime
from tests.unit.fake_cuda import FakeCuda
from tests.unit.fake_tensorrt import Scenario, expected, fake_module

# One slip per kind of name, and where each module's work enters the executor.
SLIPS = {
    "engine's method": ("engine", "get_tensor_profile_shape(", "get_tensor_profile_shapes("),
    "engine's attribute": ("engine", "engine.num_io_tensors", "engine.nb_io_tensors"),
    "enum member": ("engine", "TensorIOMode.INPUT", "TensorIOMode.IN"),
    "class": ("engine", "trt.Runtime(", "trt.Runner("),
    "argument type": (
        "engine",
        "deserialize_cuda_engine(data)",
        "deserialize_cuda_engine(data, data)",
    ),
    "context's method": ("profile_runner", "context.set_input_shape(", "context.set_shape("),
    "argument count": (
        "profile_runner",
        "set_device_memory(self._activations, self.memory)",
        "set_device_memory(self._activations)",
    ),
    "execution": (
        "profile_runner",
        "if not context.execute_async_v3(",
        "if not context.enqueue_v3(",
    ),
    "refitter's arguments": (
        "refit",
        "trt.Refitter(engine, logger)",
        "trt.Refitter(logger, engine)",
    ),
    "parser's method": ("refit", "refit_from_file(", "refit_from_path("),
    "refitter's method": ("refit", "refit_cuda_engine(", "refit_engine("),
}
# Names that only TensorRT-RTX's path uses.
RTX_SLIPS = {
    "configuration's attribute": (
        "engine",
        "config.dynamic_shapes_kernel_specialization_strategy =",
        "config.kernel_specialization_strategy =",
    ),
    "strategy's member": ("engine", "Strategy.EAGER", "Strategy.AT_ONCE"),
    "configuration's method": ("kernel_cache", "create_runtime_cache(", "make_runtime_cache("),
    "cache's argument": (
        "kernel_cache",
        "set_runtime_cache(self._cache)",
        "set_runtime_cache(b'')",
    ),
    "cache's way in": ("kernel_cache", "_cache.deserialize(", "_cache.load("),
    "cache's way out": ("kernel_cache", "_cache.serialize(", "_cache.dump("),
}
_ENTRIES = {
    "engine": ("runtimes.executors.tensorrt.runtime", "Engine"),
    "profile_runner": ("runtimes.executors.tensorrt.runtime", "ProfileRunner"),
    "refit": ("runtimes.executors.tensorrt.engine", "refit"),
    "kernel_cache": ("runtimes.executors.tensorrt.engine", "KernelCache"),
}


def results(real: Any, name: str, folder: Path) -> dict[str, Any]:
    """Outcomes of a run over changing and repeated shapes, of a refit, and of every slip."""
    slips = SLIPS | (RTX_SLIPS if name == "tensorrt_rtx" else {})
    return {
        "run": outcome(lambda: run(real, name, folder)),
        "slips": {key: with_slip(real, name, folder, *slip) for key, slip in slips.items()},
    }


def run(real: Any, name: str, folder: Path) -> None:
    """Open a stripped engine, refit it, run both profiles, repeat shapes, close; twice.

    The second executor finds the kernels of the first.
    """
    path = folder / "encoder.sm89.engine"
    path.write_bytes(b"plan")
    file = EngineFile(
        path=path,
        sha256=hashlib.sha256(b"plan").hexdigest(),
        gpu="sm89",
        version="here",
        weights=folder / "model.tensorrt.onnx",
    )
    cuda = FakeCuda()
    for stripped in (file, replace(file, weights=None)):
        module = fake_module(real, cuda, Scenario(refittable=True), name)
        kernels = folder / "encoder.kernels"
        with TrtRuntime(module, stripped, Cuda(cuda), "sm89", kernels=kernels) as runtime:
            runtime.profile_memory()
            for shape in ((2, 4), (1, 20), (2, 4), (2, 4), (1, 20)):
                ids = np.arange(shape[0] * shape[1], dtype=np.int64).reshape(shape)
                inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
                found = runtime.run(inputs)["sentence_embedding"]
                if not np.array_equal(found, expected(inputs)):
                    raise AdaptrtError(f"wrong vectors for {shape}")
    if cuda.held:
        raise AdaptrtError(f"not freed: {cuda.held}")


def with_slip(real: Any, name: str, folder: Path, module: str, right: str, wrong: str) -> str:
    """The same run with one name misspelt in one module."""
    file = importlib.import_module(f"runtimes.executors.tensorrt.{module}").__file__
    source = Path(str(file)).read_text()
    if source.count(right) != 1:
        return f"ok (runtimes.executors.tensorrt.{module} no longer says {right!r} once)"
    misspelt = types.ModuleType("misspelt_runtime")
    sys.modules["misspelt_runtime"] = misspelt  # dataclasses look their module up
    exec(compile(source.replace(right, wrong), "misspelt_runtime", "exec"), misspelt.__dict__)
    place, entry = _ENTRIES[module]
    with mock.patch(f"{place}.{entry}", getattr(misspelt, entry)):
        return outcome(lambda: run(real, name, folder))


def outcome(call: Callable[[], Any]) -> str:
    """``ok``, or the error's type and words."""
    try:
        call()
    except (AdaptrtError, AttributeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return "ok"
