"""A stand-in for ``cuda.bindings.runtime`` on machines without a GPU.

Names and signatures are the real module's: a call that the real one would refuse raises here too.
"Device" memory is host memory, so copies move real bytes, and a stream runs at once unless it
records. What is still held can be asked for, and any call can be made to fail.
"""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Callable
from typing import Any

from cuda.bindings import runtime as real

Work = Callable[[], object]
ERROR = real.cudaError_t.cudaErrorMemoryAllocation


class FakeCuda:
    """``fail`` maps a function's name to the number of the call that fails (from 1)."""

    def __init__(self, **fail: int) -> None:
        self.fail = dict(fail)
        self.calls: list[str] = []
        self.held: dict[int, str] = {}  # handle or address → what took it
        self._memory: dict[int, Any] = {}
        self._graphs: dict[int, list[Work]] = {}
        self._recording: list[Work] | None = None
        self._handles = iter(range(1, 10_000))

    def __getattr__(self, name: str) -> Any:
        """Constants and enums of the real module; functions checked against its signatures."""
        value = getattr(real, name)
        if not name.startswith("cuda") or not callable(value) or inspect.isclass(value):
            return value
        return self._function(name, value)

    def count(self, name: str) -> int:
        return self.calls.count(name)

    def enqueue(self, work: Work) -> None:
        """What a kernel launch is: run now, or record."""
        if self._recording is None:
            work()
        else:
            self._recording.append(work)

    def _function(self, name: str, value: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(value)

        def call(*arguments: Any) -> tuple[Any, ...]:
            signature.bind(*arguments)
            if name.startswith("cudaGetError"):
                return tuple(value(*arguments))
            self.calls.append(name)
            made = getattr(self, f"_{name}")
            gives = made.__annotations__["return"] != "None"
            if self.fail.get(name) == self.count(name):
                if name == "cudaStreamEndCapture":
                    self._recording = None
                return (ERROR, None) if gives else (ERROR,)
            result = made(*arguments)
            success = real.cudaError_t.cudaSuccess
            return (success, result) if gives else (success,)

        return call

    def _take(self, name: str, size: int) -> int:
        memory = (ctypes.c_ubyte * size)()
        address = ctypes.addressof(memory)
        self._memory[address], self.held[address] = memory, name
        return address

    def _give_back(self, handle: int, name: str) -> None:
        if self.held.pop(int(handle)) != name:
            raise AssertionError(f"{handle} was not made by {name}")
        self._memory.pop(int(handle), None)

    def _new(self, name: str) -> int:
        handle = next(self._handles)
        self.held[handle] = name
        return handle

    def _cudaGetDeviceCount(self) -> int:  # noqa: N802
        return 1

    def _cudaMalloc(self, size: int) -> int:  # noqa: N802
        return self._take("cudaMalloc", size)

    def _cudaMallocHost(self, size: int) -> int:  # noqa: N802
        return self._take("cudaMallocHost", size)

    def _cudaFree(self, pointer: int) -> None:  # noqa: N802
        self._give_back(pointer, "cudaMalloc")

    def _cudaFreeHost(self, pointer: int) -> None:  # noqa: N802
        self._give_back(pointer, "cudaMallocHost")

    def _cudaMemcpyAsync(self, to: int, start: int, size: int, kind: Any, stream: int) -> None:  # noqa: N802
        assert self.held[stream] == "cudaStream"
        places = {
            real.cudaMemcpyKind.cudaMemcpyHostToDevice: ("cudaMalloc", "cudaMallocHost"),
            real.cudaMemcpyKind.cudaMemcpyDeviceToHost: ("cudaMallocHost", "cudaMalloc"),
        }
        for address, place in zip((to, start), places[kind], strict=True):
            assert self.held[address] == place
            assert size <= len(self._memory[address])
        self.enqueue(lambda: ctypes.memmove(to, start, size))

    def _cudaStreamCreateWithFlags(self, flags: int) -> int:  # noqa: N802
        assert flags == real.cudaStreamNonBlocking
        return self._new("cudaStream")

    def _cudaStreamDestroy(self, stream: int) -> None:  # noqa: N802
        self._give_back(stream, "cudaStream")

    def _cudaStreamSynchronize(self, stream: int) -> None:  # noqa: N802
        assert self.held[stream] == "cudaStream"
        assert self._recording is None

    def _cudaStreamBeginCapture(self, stream: int, mode: Any) -> None:  # noqa: N802
        assert self.held[stream] == "cudaStream"
        assert mode in real.cudaStreamCaptureMode.__members__.values()
        self._recording = []

    def _cudaStreamEndCapture(self, stream: int) -> int:  # noqa: N802
        assert self._recording is not None
        graph = self._new("cudaGraph")
        self._graphs[graph], self._recording = self._recording, None
        return graph

    def _cudaGraphInstantiate(self, graph: int, flags: int) -> int:  # noqa: N802
        assert self.held[graph] == "cudaGraph"
        executable = self._new("cudaGraphExec")
        self._graphs[executable] = self._graphs[graph]
        return executable

    def _cudaGraphLaunch(self, executable: int, stream: int) -> None:  # noqa: N802
        assert self.held[executable] == "cudaGraphExec"
        for work in self._graphs[executable]:
            work()

    def _cudaGraphDestroy(self, graph: int) -> None:  # noqa: N802
        self._give_back(graph, "cudaGraph")

    def _cudaGraphExecDestroy(self, executable: int) -> None:  # noqa: N802
        self._give_back(executable, "cudaGraphExec")
