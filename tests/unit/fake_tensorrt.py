"""An engine that computes, behind the real bindings' classes and signatures.

The objects that only a driver could make are autospec'ed doubles: a name that the bindings lack, or
a call that their signatures refuse, fails. The "model" gives, per row, the sum of the ids that
count, how many count, and the row's task.
"""

from __future__ import annotations

import ctypes
import types as python
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.unit.fake_cuda import FakeCuda
from tests.unit.tensorrt_contract import double

WIDTH = 3
PROFILES = (((1, 1), (2, 4), (4, 8)), ((1, 8), (1, 16), (2, 32)))  # short and long
MEMORY = (1000, 5000)
WEIGHTS = ("encoder.layers.0.mlp.fc1.weight", "embeddings.word_embeddings.weight")


@dataclass
class Scenario:
    """What goes wrong: ``fail`` maps a method to the number of its call that fails (from 1)."""

    fail: dict[str, int] = field(default_factory=dict)
    loads: bool = True
    refittable: bool = False
    missing: tuple[str, ...] = ()
    switchable: bool = False
    profiles: tuple[Any, ...] = PROFILES
    counts: dict[str, int] = field(default_factory=dict)
    contexts: list[Any] = field(default_factory=list)
    configs: list[Any] = field(default_factory=list)

    def works(self, name: str) -> bool:
        self.counts[name] = self.counts.get(name, 0) + 1
        return self.fail.get(name) != self.counts[name]

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("input_ids", "attention_mask", *(("task_id",) if self.switchable else ()))


def fake_module(real: Any, cuda: FakeCuda, scenario: Scenario, name: str) -> Any:
    """The bindings ``real`` under ``name``, with a Runtime and a Refitter that need no driver."""
    module = python.ModuleType(name)

    def make_runtime(logger: Any) -> Any:
        _require(isinstance(logger, real.ILogger), "Runtime(logger)")
        if not scenario.works("Runtime"):
            raise TypeError("factory function returned nullptr")
        if not scenario.loads:
            logger.log(real.ILogger.ERROR, "version tag does not match")
        engine = _engine(real, cuda, scenario) if scenario.loads else None
        values: dict[str, Any] = {"deserialize_cuda_engine": engine}
        if hasattr(real, "EngineValidity"):
            unsupported = int(real.EngineInvalidityDiagnostics.UNSUPPORTED_CC)
            values["get_engine_validity"] = (real.EngineValidity.INVALID, unsupported)
        return double(real, real.Runtime, **values)

    def make_refitter(engine: Any, logger: Any) -> Any:
        _require(isinstance(engine, real.ICudaEngine), "Refitter(engine, logger)")
        return double(
            real,
            real.Refitter,
            get_missing_weights=list(scenario.missing),
            get_all_weights=list(WEIGHTS),
            refit_cuda_engine=scenario.works("refit_cuda_engine"),
        )

    def make_parser(refitter: Any, logger: Any) -> Any:
        _require(isinstance(refitter, real.Refitter), "OnnxParserRefitter(refitter, logger)")
        error = double(real, real.ParserError, node_name="mlp.fc1", desc="has another shape")
        return double(
            real,
            real.OnnxParserRefitter,
            num_errors=1,
            get_error=error,
            refit_from_file=scenario.works("refit_from_file"),
        )

    module.__dict__.update(
        {k: v for k, v in vars(real).items() if not k.startswith("__")},
        __version__=real.__version__,
        Runtime=make_runtime,
        Refitter=make_refitter,
        OnnxParserRefitter=make_parser,
    )
    return module


def _engine(real: Any, cuda: FakeCuda, scenario: Scenario) -> Any:
    names = (*scenario.inputs, "sentence_embedding")
    kinds = real.TensorIOMode
    engine = double(
        real,
        real.ICudaEngine,
        num_io_tensors=len(names),
        num_optimization_profiles=len(scenario.profiles),
        refittable=scenario.refittable,
    )
    if hasattr(real, "IRuntimeConfig"):  # 10.3 has none
        engine.create_runtime_config.return_value = _config(real, scenario)

    def create_context(how: Any = None) -> Any:
        if not scenario.works("create_execution_context"):
            return None
        context = _context(real, cuda, scenario)
        scenario.contexts.append(context)
        return context

    def shapes(name: str, index: int) -> list[Any]:
        rank = 1 if name == "task_id" else 2
        return [shape[:rank] for shape in scenario.profiles[index]]

    _computes(engine.get_tensor_name, lambda i: names[i])
    _computes(engine.get_tensor_mode, lambda n: kinds.INPUT if n in names[:-1] else kinds.OUTPUT)
    types = dict.fromkeys(names[:-1], real.DataType.INT64) | {names[-1]: real.DataType.FLOAT}
    _computes(engine.get_tensor_dtype, lambda n: types[n])
    _computes(engine.get_tensor_profile_shape, shapes)
    _computes(engine.get_device_memory_size_for_profile_v2, lambda i: MEMORY[i])
    _computes(engine.create_execution_context, create_context)
    return engine


def _config(real: Any, scenario: Scenario) -> Any:
    config = double(real, real.IRuntimeConfig)
    scenario.configs.append(config)
    return config


def _context(real: Any, cuda: FakeCuda, scenario: Scenario) -> Any:
    context = double(real, real.IExecutionContext)
    shapes: dict[str, tuple[int, ...]] = {}
    addresses: dict[str, int] = {}
    memory: list[int] = []
    profile: list[int] = []

    def set_profile(index: int, stream: int) -> bool:
        profile[:] = [index]
        return scenario.works("set_optimization_profile_async")

    def set_shape(name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = scenario.profiles[profile[0]]
        fits = all(a <= b <= c for a, b, c in zip(low, shape, high, strict=False))
        shapes[name] = tuple(shape)
        return scenario.works("set_input_shape") and fits

    def set_address(name: str, address: int) -> bool:
        addresses[name] = address
        return scenario.works("set_tensor_address")

    def set_memory(address: int, size: int) -> None:
        _require(cuda.held[address] == "cudaMalloc" and size >= MEMORY[profile[0]], "memory")
        memory[:] = [address]

    def output_shape(name: str) -> tuple[int, ...]:
        return (shapes["input_ids"][0] if scenario.works("get_tensor_shape") else -1, WIDTH)

    def execute(stream: int) -> bool:
        _require(cuda.held[stream] == "cudaStream", "stream")
        _require(cuda.held[memory[0]] == "cudaMalloc", "activation memory")
        taken = dict(shapes)
        if not scenario.works("execute_async_v3"):
            return False
        cuda.enqueue(lambda: _compute(taken, addresses, scenario.inputs))
        return True

    for method, function in (
        (context.set_optimization_profile_async, set_profile),
        (context.set_input_shape, set_shape),
        (context.set_tensor_address, set_address),
        (context.set_device_memory, set_memory),
        (context.get_tensor_shape, output_shape),
        (context.execute_async_v3, execute),
    ):
        _computes(method, function)
    return context


def _compute(
    shapes: dict[str, tuple[int, ...]], addresses: dict[str, int], inputs: tuple[str, ...]
) -> None:
    arrays = {n: _view(addresses[n], shapes[n], np.int64) for n in inputs}
    out = _view(addresses["sentence_embedding"], (shapes["input_ids"][0], WIDTH), np.float32)
    out[...] = expected(arrays)


def expected(arrays: dict[str, Any]) -> Any:
    """What the model gives."""
    ids, mask = arrays["input_ids"], arrays["attention_mask"]
    task = arrays.get("task_id", np.zeros(len(ids)))
    return np.stack([(ids * mask).sum(1), mask.sum(1), task], axis=1).astype(np.float32)


def _view(address: int, shape: tuple[int, ...], dtype: Any) -> Any:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_ubyte * size).from_address(address), dtype).reshape(shape)


def _computes(method: Any, function: Callable[..., Any]) -> None:
    """Let a double's method compute, once its signature was checked."""
    check = method.side_effect

    def call(*arguments: Any, **keywords: Any) -> Any:
        check(*arguments, **keywords)
        return function(*arguments, **keywords)

    method.side_effect = call


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise TypeError(f"not as the bindings want it: {what}")
