"""The stand-ins for CUDA and TensorRT notice what a GPU would: races, wrong orders, stale errors.

Negative controls. Each wrong program here passes every check of names and signatures.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import sys
import threading
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tensorrt_rtx_bindings as rtx

from runtimes.errors import AdaptrtError
from runtimes.executors.tensorrt.cuda import Cuda
from runtimes.executors.tensorrt.engine import EngineFile
from runtimes.executors.tensorrt.runtime import TrtRuntime
from runtimes.heads import CHUNK_EMBEDDING, CHUNK_WEIGHTS
from runtimes.tensors import ATTENTION_MASK, INPUT_IDS, SENTENCE_EMBEDDING, Tensor
from tests.unit.fake_cuda import FakeCuda
from tests.unit.fake_tensorrt import OUTPUT, OrderError, Scenario, expected, fake_module

SIZE = 8


class Machine:
    """A stream, and eight bytes on either side."""

    def __init__(self, devices: int = 1) -> None:
        self.fake = FakeCuda(devices=devices)
        self.cuda = Cuda(self.fake)
        self.stream = self.cuda.create_stream()
        self.host, self.device = self.cuda.malloc_host(SIZE), self.cuda.malloc(SIZE)

    def write(self, value: int) -> None:
        ctypes.memset(self.host, value, SIZE)

    def read(self) -> bytes:
        return ctypes.string_at(self.host, SIZE)

    def there_and_back(self) -> None:
        self.cuda.to_device(self.device, self.host, SIZE, self.stream)
        self.cuda.to_host(self.host, self.device, SIZE, self.stream)


def test_work_is_done_when_it_is_waited_for() -> None:
    machine = Machine()
    machine.write(1)
    machine.cuda.to_device(machine.device, machine.host, SIZE, machine.stream)
    machine.cuda.synchronize(machine.stream)
    machine.write(0)
    machine.cuda.to_host(machine.host, machine.device, SIZE, machine.stream)
    assert machine.read() != bytes([1] * SIZE)  # read too early: rubbish
    assert machine.read() != bytes(SIZE)  # and not what lay there
    machine.cuda.synchronize(machine.stream)
    assert machine.read() == bytes([1] * SIZE)


def test_input_that_is_overwritten_too_early_is_lost() -> None:
    machine = Machine()
    machine.write(1)
    machine.cuda.to_device(machine.device, machine.host, SIZE, machine.stream)
    machine.write(2)
    machine.cuda.to_host(machine.host, machine.device, SIZE, machine.stream)
    machine.cuda.synchronize(machine.stream)
    assert machine.read() != bytes([1] * SIZE)


@pytest.mark.parametrize("free", ["free", "free_host", "destroy_stream"])
def test_freeing_under_queued_work_is_noticed(free: str) -> None:
    machine = Machine()
    machine.there_and_back()
    handle = {"free": machine.device, "free_host": machine.host, "destroy_stream": machine.stream}
    with pytest.raises(AssertionError, match="queued work"):
        getattr(machine.cuda, free)(handle[free])


def test_use_of_freed_memory_is_noticed() -> None:
    machine = Machine()
    machine.cuda.begin_capture(machine.stream)
    machine.cuda.to_device(machine.device, machine.host, SIZE, machine.stream)
    graph = machine.cuda.instantiate(machine.cuda.end_capture(machine.stream))
    machine.cuda.free(machine.device)
    with pytest.raises(AssertionError, match="used after it was freed"):
        machine.cuda.launch(graph, machine.stream)


@pytest.mark.parametrize("method", ["malloc", "malloc_host", "free", "free_host", "synchronize"])
def test_call_that_ends_a_recording_is_noticed(method: str) -> None:
    machine = Machine()
    machine.cuda.begin_capture(machine.stream)
    arguments = {"free": machine.device, "free_host": machine.host, "synchronize": machine.stream}
    with pytest.raises(AssertionError, match="while recording"):
        getattr(machine.cuda, method)(arguments.get(method, SIZE))


def test_another_device_is_noticed() -> None:
    machine = Machine(devices=2)
    machine.cuda.set_device(1)
    with pytest.raises(AssertionError, match="a stream of device 0 on device 1"):
        machine.there_and_back()
    machine.stream = machine.cuda.create_stream()
    with pytest.raises(AssertionError, match="memory of device 0 on device 1"):
        machine.there_and_back()


def test_current_device_is_the_threads_own() -> None:
    machine = Machine(devices=2)
    machine.cuda.set_device(1)
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(machine.cuda.get_device()))
    thread.start()
    thread.join()
    assert (seen, machine.cuda.get_device()) == ([0], 1)


Step = Callable[["Bench"], Any]


class Bench:
    """A context of the fake engine, driven by hand."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.cuda, self.stream = self.machine.cuda, self.machine.stream
        self.scenario = Scenario()
        module = fake_module(rtx, self.machine.fake, self.scenario, "tensorrt")
        logger = type("Logger", (rtx.ILogger,), {"log": lambda self, *_: None})()
        engine = module.Runtime(logger).deserialize_cuda_engine(b"plan")
        self.context = engine.create_execution_context()
        self.memory = self.cuda.malloc(5000)
        self.buffer = self.cuda.malloc(1024)
        self.results: list[Any] = []


def profile(bench: Bench) -> Any:
    return bench.context.set_optimization_profile_async(0, bench.stream)


def wait(bench: Bench) -> None:
    bench.cuda.synchronize(bench.stream)


def memory(bench: Bench) -> None:
    bench.context.set_device_memory(bench.memory, 5000)


def shapes(bench: Bench) -> Any:
    return [bench.context.set_input_shape(n, (2, 4)) for n in bench.scenario.inputs]


def addresses(bench: Bench) -> Any:
    names = (*bench.scenario.inputs, OUTPUT)
    return [bench.context.set_tensor_address(n, bench.buffer) for n in names]


def execute(bench: Bench) -> Any:
    return bench.context.execute_async_v3(bench.stream)


def record(bench: Bench) -> None:
    bench.cuda.begin_capture(bench.stream)
    execute(bench)
    bench.cuda.instantiate(bench.cuda.end_capture(bench.stream))


RIGHT: tuple[Step, ...] = (profile, wait, memory, shapes, addresses, execute, wait, record)
WRONG: dict[str, tuple[tuple[Step, ...], str]] = {
    "memory before profile": ((memory,), "memory before the profile"),
    "memory before the profile's copies": ((profile, memory), "before the profile's switch has"),
    "shapes before profile": ((shapes,), "before the profile"),
    "shapes before memory": ((profile, wait, shapes), "before the memory"),
    "addresses before shapes": ((profile, wait, memory, addresses), "before shapes"),
    "no shapes": ((profile, wait, memory, execute), "before the shapes"),
    "no addresses": ((profile, wait, memory, shapes, execute), "before the addresses"),
    "no memory": ((profile, wait, execute), "before the memory"),
    "shapes of the former profile": (
        (profile, wait, memory, shapes, addresses, profile, wait, memory, execute),
        "before the shapes",
    ),
    "memory of the former profile": (
        (profile, wait, memory, shapes, addresses, profile, wait, execute),
        "before the memory",
    ),
    "recorded at once": (
        (profile, wait, memory, shapes, addresses, record),
        "recorded before the same shapes have run",
    ),
    "recorded while running": (
        (profile, wait, memory, shapes, addresses, execute, record),
        "recorded before the same shapes have run",
    ),
    "changed after recording": ((*RIGHT, shapes), "can still be launched"),
    "executed after recording": ((*RIGHT, execute), "can still be launched"),
}


def test_right_order_passes() -> None:
    bench = Bench()
    for step in RIGHT:
        step(bench)
    assert bench.machine.fake.count("cudaGraphInstantiate") == 1


@pytest.mark.parametrize("name", WRONG)
def test_wrong_order_is_noticed(name: str) -> None:
    steps, message = WRONG[name]
    bench = Bench()
    for step in steps[:-1]:
        step(bench)
    with pytest.raises(OrderError, match=message):
        steps[-1](bench)


def test_error_that_was_left_behind_fails_the_next_execution() -> None:
    bench = Bench()
    for step in (profile, wait, memory, shapes, addresses):
        step(bench)
    bench.machine.fake.fail = {"cudaMalloc": bench.machine.fake.count("cudaMalloc") + 1}
    bench.machine.fake.cudaMalloc(SIZE)  # past the executor's own class, which clears it
    assert not execute(bench)
    bench.cuda.clear_error()
    assert execute(bench)


# The executor with one line changed: as module, the right line, the wrong one.
MUTANTS = {
    "results are read at once": (
        "profile_runner",
        "        self._cuda.synchronize(self._stream)\n        return self._buffers",
        "        return self._buffers",
    ),
    "the profile is not waited for": (
        "profile_runner",
        "        self._cuda.synchronize(self._stream)\n        context.set_device_memory",
        "        context.set_device_memory",
    ),
    "the first run is not waited for": (
        "profile_runner",
        "        self._cuda.synchronize(self._stream)\n        try:",
        "        try:",
    ),
    "graphs outlive their addresses": ("profile_runner", "self._recordings.clear()", "pass"),
    "new addresses are not set": (
        "profile_runner",
        "            self._bound = False\n",
        "            self._bound = True\n",
    ),
    "an error stays behind": ("profile_runner", "self._cuda.clear_error()", "pass"),
    "a graph's context serves other shapes": (
        "profile_runner",
        "self._engine.create_context()\n            except",
        "self._context\n            except",
    ),
    "memory is freed under work": (
        "profile_runner",
        "            resources.keep(stream, cuda.synchronize)\n            self._bind",
        "            self._bind",
    ),
    "padding is not masked": ("padding", "np.zeros(shape", "np.ones(shape"),
    "padding stays": ("padding", "slice(sizes.get(axis))", "slice(None)"),
    "an engine on another's device": (
        "runtime",
        "        with cuda.selected():\n            self._engine",
        "        with suppress():\n            self._engine",
    ),
    "calls on another's device": (
        "runtime",
        "        with self._lock, self._cuda.selected():",
        "        with self._lock:",
    ),
}
_PLACES = {
    "profile_runner": ("runtimes.executors.tensorrt.runtime", ("ProfileRunner",)),
    "padding": ("runtimes.executors.tensorrt.runtime", ("pad_inputs", "cut_outputs")),
    "runtime": (__name__, ("TrtRuntime",)),
}
CHUNKS_OUT = Tensor(name=SENTENCE_EMBEDDING.name, dtype="float32", axes=CHUNK_EMBEDDING.axes)


def drive(folder: Path) -> None:
    """Every path of the executor, on the second of two GPUs, compared with what it should give."""
    path = folder / "encoder.engine"
    path.write_bytes(b"plan")
    digest = hashlib.sha256(b"plan").hexdigest()
    file = EngineFile(path=path, sha256=digest, gpu="sm89", version="here")
    fails: tuple[dict[str, int], ...] = ({}, {"cudaMemcpyAsync": 7}, {"cudaGraphInstantiate": 1})
    for fail in fails:
        cuda = FakeCuda(devices=2, **fail)
        scenario = Scenario(profiles=(((1, 1), (4, 64), (8, 8192)),), chunks=1024)
        if "cudaGraphInstantiate" in fail:
            scenario.fail["execute_async_v3"] = 3  # while recording
        module = fake_module(rtx, cuda, scenario, "tensorrt")
        runtime = TrtRuntime(
            module,
            file,
            Cuda(cuda, 1),
            "sm89",
            inputs=(INPUT_IDS, ATTENTION_MASK, CHUNK_WEIGHTS),
            outputs=(CHUNKS_OUT,),
        )
        with runtime, warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            for number, shape in enumerate([(1, 9), (1, 9), (1, 12), (5, 70), (1, 8192), (1, 9)]):
                try:
                    compare(runtime, number, *shape, chunks=1024 if shape[1] > 999 else 5)
                except AdaptrtError as error:
                    if "cudaMemcpyAsync" not in str(error):
                        raise
                    break
        assert cuda.held == {}
        assert cuda.device == 0


def compare(runtime: TrtRuntime, seed: int, rows: int, tokens: int, chunks: int) -> None:
    rng = np.random.default_rng(seed)
    inputs: dict[str, Any] = {
        "input_ids": rng.integers(5, 100, (rows, tokens)),
        "attention_mask": np.ones((rows, tokens), np.int64),
        "chunk_weights": np.ones((rows, chunks, tokens), np.float32),
    }
    found = runtime.run(inputs)[OUTPUT]
    np.testing.assert_array_equal(found, expected(inputs))


def test_executor_as_it_is_passes(tmp_path: Path) -> None:
    drive(tmp_path)


@pytest.mark.parametrize("name", MUTANTS)
def test_executor_with_one_line_changed_fails(name: str, tmp_path: Path) -> None:
    module, right, wrong = MUTANTS[name]
    file = importlib.import_module(f"runtimes.executors.tensorrt.{module}").__file__
    source = Path(str(file)).read_text()
    assert source.count(right) == 1
    mutant = types.ModuleType("mutant")
    sys.modules["mutant"] = mutant  # dataclasses look their module up
    exec(compile(source.replace(right, wrong), "mutant", "exec"), mutant.__dict__)
    place, names = _PLACES[module]
    with (
        mock.patch.multiple(place, **{name: getattr(mutant, name) for name in names}),
        pytest.raises((AssertionError, AdaptrtError)),
    ):
        drive(tmp_path)
