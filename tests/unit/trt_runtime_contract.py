"""Runs the executor and the refit against real TensorRT bindings, either flavour, with no GPU.

Used in-process for TensorRT-RTX and by :mod:`tests.unit.trt_contract` for TensorRT 11.4.
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

from runtimes.cuda import Cuda
from runtimes.errors import AdaptrtError
from runtimes.trt import TrtRuntime
from runtimes.trt_engine import EngineFile
from tests.unit.fake_cuda import FakeCuda
from tests.unit.fake_trt import Scenario, expected, fake_module

# One slip per kind of name, and where each module's work enters the executor.
SLIPS = {
    "engine's method": ("trt_engine", "get_tensor_profile_shape(", "get_tensor_profile_shapes("),
    "engine's attribute": ("trt_engine", "engine.num_io_tensors", "engine.nb_io_tensors"),
    "enum member": ("trt_engine", "TensorIOMode.INPUT", "TensorIOMode.IN"),
    "class": ("trt_engine", "trt.Runtime(", "trt.Runner("),
    "argument type": ("trt_engine", "deserialize_cuda_engine(data)",
                      "deserialize_cuda_engine(data, data)"),
    "context's method": ("trt_profile", "context.set_input_shape(", "context.set_shape("),
    "argument count": ("trt_profile", "set_device_memory(self._activations, self.memory)",
                       "set_device_memory(self._activations)"),
    "execution": ("trt_profile", "if not context.execute_async_v3(", "if not context.enqueue_v3("),
    "refitter's arguments": ("trt_refit", "trt.Refitter(engine, logger)",
                             "trt.Refitter(logger, engine)"),
    "parser's method": ("trt_refit", "refit_from_file(", "refit_from_path("),
    "refitter's method": ("trt_refit", "refit_cuda_engine(", "refit_engine("),
}  # fmt: skip
_ENTRIES = {
    "trt_engine": ("runtimes.trt", "Engine"),
    "trt_profile": ("runtimes.trt", "ProfileRunner"),
    "trt_refit": ("runtimes.trt_engine", "refit"),
}


def results(real: Any, name: str, folder: Path) -> dict[str, Any]:
    """Outcomes of a run over changing and repeated shapes, of a refit, and of every slip."""
    return {
        "run": outcome(lambda: run(real, name, folder)),
        "slips": {key: with_slip(real, name, folder, *slip) for key, slip in SLIPS.items()},
    }


def run(real: Any, name: str, folder: Path) -> None:
    """Open a stripped engine, refit it, run both profiles, repeat shapes, close."""
    path = folder / "encoder.sm89.engine"
    path.write_bytes(b"plan")
    file = EngineFile(path=path, sha256=hashlib.sha256(b"plan").hexdigest(), gpu="sm89",
                      version="here", weights=folder / "model.tensorrt.onnx")  # fmt: skip
    cuda = FakeCuda()
    for stripped in (file, replace(file, weights=None)):
        module = fake_module(real, cuda, Scenario(refittable=True), name)
        with TrtRuntime(module, stripped, Cuda(cuda), "sm89") as runtime:
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
    file = importlib.import_module(f"runtimes.{module}").__file__
    source = Path(str(file)).read_text()
    if source.count(right) != 1:
        return f"ok (runtimes.{module} no longer says {right!r} once)"
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
