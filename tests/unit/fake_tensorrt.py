"""An engine that computes, behind the real bindings' classes and signatures.

The objects that only a driver could make are autospec'ed doubles: a name that the bindings lack, or
a call that their signatures refuse, fails. The "model" gives, per row, the sum of the ids that
count, how many count, and the row's task; with chunks the same of each of a row's chunks.
"""

from __future__ import annotations

import ctypes
import json
import types as python
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.unit.binding_doubles import double
from tests.unit.fake_cuda import ERROR, NEVER_WRITTEN, SUCCESS, FakeCuda, Work

WIDTH = 3
OUTPUT = "sentence_embedding"
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
    chunks: int = 0  # the most that chunk_weights may have; 0: no such input
    profiles: tuple[Any, ...] = PROFILES
    counts: dict[str, int] = field(default_factory=dict)
    contexts: list[Context] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)  # the inputs of each execution
    configs: list[Config] = field(default_factory=list)
    gpu: str = "sm89"  # whose kernels a cache holds
    compiled: list[str] = field(default_factory=list)  # shapes, by TensorRT-RTX
    fallbacks: int = 0  # executions with kernels that a better one takes the place of

    def works(self, name: str) -> bool:
        self.counts[name] = self.counts.get(name, 0) + 1
        return self.fail.get(name) != self.counts[name]

    @property
    def inputs(self) -> tuple[str, ...]:
        more = ("task_id",) * self.switchable + ("chunk_weights",) * bool(self.chunks)
        return ("input_ids", "attention_mask", *more)

    def dtype(self, name: str) -> type:
        return np.float32 if name in ("chunk_weights", OUTPUT) else np.int64

    def range_of(self, name: str, index: int) -> list[tuple[int, ...]]:
        """The least, best and greatest shape of an input in a profile."""
        rows_tokens = self.profiles[index]
        if name == "chunk_weights":
            counts = (1, self.chunks, self.chunks)
            return [(b, n, t) for (b, t), n in zip(rows_tokens, counts, strict=True)]
        return [shape[: 1 if name == "task_id" else 2] for shape in rows_tokens]

    def output_shape(self, shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
        return (*shapes.get("chunk_weights", shapes["input_ids"])[: 2 if self.chunks else 1], WIDTH)


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
    names, device = (*scenario.inputs, OUTPUT), cuda.device
    kinds = real.TensorIOMode
    engine = double(
        real,
        real.ICudaEngine,
        num_io_tensors=len(names),
        num_optimization_profiles=len(scenario.profiles),
        refittable=scenario.refittable,
    )
    if hasattr(real, "IRuntimeConfig"):  # 10.3 has none
        config = Config(real, scenario)
        scenario.configs.append(config)
        engine.create_runtime_config.return_value = config.double

    def create_context(how: Any = None) -> Any:
        _in_order(cuda.device == device, f"an engine of device {device} on device {cuda.device}")
        if not scenario.works("create_execution_context"):
            return None
        # The full flavour is given a strategy instead of a configuration.
        configs = (c for c in scenario.configs if c.double is how)
        context = Context(real, cuda, scenario, next(configs, None))
        scenario.contexts.append(context)
        return context.double

    _computes(engine.get_tensor_name, lambda i: names[i])
    _computes(engine.get_tensor_mode, lambda n: kinds.INPUT if n in names[:-1] else kinds.OUTPUT)
    types: dict[type, Any] = {np.int64: real.DataType.INT64, np.float32: real.DataType.FLOAT}
    _computes(engine.get_tensor_dtype, lambda n: types[scenario.dtype(n)])
    _computes(engine.get_tensor_profile_shape, scenario.range_of)
    _computes(engine.get_device_memory_size_for_profile_v2, lambda i: MEMORY[i])
    _computes(engine.create_execution_context, create_context)
    return engine


class Config:
    """TensorRT-RTX's configuration of contexts, with the cache that it was given."""

    def __init__(self, real: Any, scenario: Scenario) -> None:
        self.scenario = scenario
        self.kernels: set[str] = set()  # compiled here, or read
        self.cached = False
        self.double = double(real, real.IRuntimeConfig)
        self.eager = getattr(real, "DynamicShapesKernelSpecializationStrategy", None)
        if hasattr(real, "IRuntimeCache"):
            self.cache = double(real, real.IRuntimeCache)
            _computes(self.cache.deserialize, self.read)
            _computes(self.cache.serialize, self.serialize)
            made = self.cache if scenario.works("create_runtime_cache") else None
            self.double.create_runtime_cache.return_value = made
            _computes(self.double.set_runtime_cache, self.take)

    def read(self, blob: bytes) -> bool:
        """Only kernels of the same GPU."""
        try:
            gpu, kernels = json.loads(blob)
        except ValueError:
            return False
        if gpu == self.scenario.gpu:
            self.kernels |= set(kernels)
        return bool(gpu == self.scenario.gpu)

    def serialize(self) -> bytes | None:
        works = self.scenario.works("serialize")
        return json.dumps([self.scenario.gpu, sorted(self.kernels)]).encode() if works else None

    def take(self, cache: Any) -> bool:
        self.cached = cache is self.cache and self.scenario.works("set_runtime_cache")
        return self.cached

    def compile(self, shape: str) -> None:
        if shape in self.kernels:
            return
        strategy = self.double.dynamic_shapes_kernel_specialization_strategy
        if self.eager is None or strategy != self.eager.EAGER:
            self.scenario.fallbacks += 1
        else:
            self.scenario.compiled.append(shape)
            self.kernels.add(shape)


class OrderError(AssertionError):
    """A call that TensorRT wants after another one; the real library goes on with what was left."""


class Context:
    """The state behind an execution context.

    The order is profile → memory → shapes → addresses → execution, and a profile clears the rest.
    Before a recording the same shapes have run, and that run has ended; afterwards the context
    stays as it is for as long as its graph can be launched.
    """

    def __init__(
        self, real: Any, cuda: FakeCuda, scenario: Scenario, config: Config | None
    ) -> None:
        self.cuda, self.scenario, self.device = cuda, scenario, cuda.device
        self.config = config
        self.profile: int | None = None
        self.ready = False  # whether the profile's own copies have ended
        self.memory: int | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.ran: dict[str, tuple[int, ...]] = {}
        self.double = double(real, real.IExecutionContext)
        for method, function in (
            ("set_optimization_profile_async", self.set_profile),
            ("set_device_memory", self.set_memory),
            ("set_input_shape", self.set_shape),
            ("set_tensor_address", self.set_address),
            ("get_tensor_shape", self.output_shape),
            ("execute_async_v3", self.execute),
        ):
            _computes(getattr(self.double, method), function)

    def set_profile(self, index: int, stream: int) -> bool:
        self._untouched("profile")
        self.profile, self.ready, self.memory = index, False, None
        self.shapes.clear()
        self.addresses.clear()
        self.ran = {}
        self.cuda.enqueue(stream, Work(lambda: setattr(self, "ready", True), (), self))
        return self.scenario.works("set_optimization_profile_async")

    def set_memory(self, address: int, size: int) -> None:
        self._untouched("memory")
        _in_order(self.profile is not None, "memory before the profile, whose size it has")
        _in_order(self.ready, "memory before the profile's switch has ended")
        assert self.profile is not None
        _require(self.cuda.size_of(address) >= size >= MEMORY[self.profile], "memory")
        self.memory = address

    def set_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._untouched("shape")
        _in_order(self.profile is not None, f"shape of {name} before the profile")
        _in_order(self.memory is not None, f"shape of {name} before the memory")
        assert self.profile is not None
        low, _, high = self.scenario.range_of(name, self.profile)
        fits = all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        self.shapes[name] = tuple(shape)
        return self.scenario.works("set_input_shape") and fits

    def set_address(self, name: str, address: int) -> bool:
        self._untouched("address")
        _in_order(len(self.shapes) == len(self.scenario.inputs), f"address of {name} before shapes")
        self.cuda.size_of(address)
        self.addresses[name] = address
        return self.scenario.works("set_tensor_address")

    def output_shape(self, name: str) -> tuple[int, ...]:
        known = self.scenario.works("get_tensor_shape") and "input_ids" in self.shapes
        return self.scenario.output_shape(self.shapes) if known else (-1, WIDTH)

    def execute(self, stream: int) -> bool:
        scenario, cuda = self.scenario, self.cuda
        _in_order(self.memory is not None, "execution before the memory")
        _in_order(len(self.shapes) == len(scenario.inputs), "execution before the shapes")
        _in_order(len(self.addresses) == len(scenario.inputs) + 1, "execution before the addresses")
        if cuda.device != self.device:
            raise OrderError(f"a context of device {self.device} on device {cuda.device}")
        if cuda.recording is None:
            self._untouched("execution")
        else:
            _in_order(self.ran == self.shapes, "recorded before the same shapes have run and ended")
        # TensorRT asks for the last error after its launches, and takes an older one for its own.
        if not scenario.works("execute_async_v3"):
            cuda.last_error = ERROR
        if cuda.last_error != SUCCESS:
            return False
        if self.config is not None:
            self.config.compile(str(sorted(self.shapes.items())))
        shapes, addresses = dict(self.shapes), dict(self.addresses)
        assert self.memory is not None
        memory = self.memory

        def run() -> None:
            ctypes.memset(memory, NEVER_WRITTEN, cuda.size_of(memory))
            _compute(cuda, scenario, shapes, addresses)
            self.ran = shapes

        cuda.enqueue(stream, Work(run, (memory, *addresses.values()), self))
        return True

    def _untouched(self, what: str) -> None:
        if self.cuda.recorded_by(self):
            raise OrderError(f"{what}: the context of a graph that can still be launched")


def _compute(
    cuda: FakeCuda,
    scenario: Scenario,
    shapes: dict[str, tuple[int, ...]],
    addresses: dict[str, int],
) -> None:
    arrays = {n: _view(cuda, addresses[n], s, scenario.dtype(n)) for n, s in shapes.items()}
    out = _view(cuda, addresses[OUTPUT], scenario.output_shape(shapes), np.float32)
    out[...] = expected(arrays)
    scenario.runs.append({name: array.copy() for name, array in arrays.items()})


def expected(arrays: dict[str, Any]) -> Any:
    """What the model gives; rows and chunks that hold nothing are NaN, as a mean of nothing is."""
    ids, mask = arrays["input_ids"], arrays["attention_mask"]
    task = arrays.get("task_id", np.zeros(len(ids)))
    if (weights := arrays.get("chunk_weights")) is not None:
        sums, counts = np.einsum("bct,bt->bc", weights, ids * mask), weights.sum(2)
        tasks = np.broadcast_to(task[:, None], counts.shape)
        vectors = np.stack([sums, counts, tasks], axis=-1)
    else:
        counts = mask.sum(1)
        vectors = np.stack([(ids * mask).sum(1), counts, task], axis=1)
    return np.where((counts == 0)[..., None], np.nan, vectors).astype(np.float32)


def _view(cuda: FakeCuda, address: int, shape: tuple[int, ...], dtype: Any) -> Any:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    assert size <= cuda.size_of(address), f"{size} bytes in a buffer of {cuda.size_of(address)}"
    return np.frombuffer((ctypes.c_ubyte * size).from_address(address), dtype).reshape(shape)


def _in_order(condition: bool, what: str) -> None:
    if not condition:
        raise OrderError(what)


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
