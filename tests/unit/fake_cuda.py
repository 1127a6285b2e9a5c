"""A stand-in for ``cuda.bindings.runtime`` on machines without a GPU.

Names and signatures are the real module's: a call that the real one would refuse raises here too.
"Device" memory is host memory, so copies move real bytes. A stream only takes notes: its work is
done when it is waited for, so a host that reads too early reads rubbish, and memory that is freed
under queued work, used after it was freed, or of another device than the stream's is an
``AssertionError``. What is still held can be asked for, and any call can be made to fail.
"""

from __future__ import annotations

import ctypes
import inspect
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cuda.bindings import runtime as real

SUCCESS = real.cudaError_t.cudaSuccess
ERROR = real.cudaError_t.cudaErrorMemoryAllocation
NEVER_WRITTEN, NOT_YET = 0xA5, 0x5A  # bytes of fresh memory, and of a result that is under way
# What the driver refuses on a thread that is recording (cudaStreamCaptureModeThreadLocal).
_NOT_WHILE_RECORDING = {
    "cudaMalloc",
    "cudaMallocHost",
    "cudaFree",
    "cudaFreeHost",
    "cudaStreamSynchronize",
}


@dataclass(frozen=True)
class Work:
    """A copy or a kernel: what it does, the addresses it uses, and the context that launched it."""

    run: Callable[[], object]
    uses: tuple[int, ...]
    owner: object = None


class FakeCuda:
    """``fail`` maps a function's name to the number of the call that fails (from 1)."""

    def __init__(self, *, devices: int = 1, **fail: int) -> None:
        self.fail = dict(fail)
        self.calls: list[str] = []
        self.held: dict[int, str] = {}  # handle or address → what took it
        self.last_error = SUCCESS
        self.recording: list[Work] | None = None
        self.queues: dict[int, list[Work]] = {}
        self._devices = devices
        self._device_of: dict[int, int] = {}
        self._memory: dict[int, Any] = {}
        self._graphs: dict[int, list[Work]] = {}
        self._handles = iter(range(1, 10_000))
        self._thread = threading.local()

    def __getattr__(self, name: str) -> Any:
        """Constants and enums of the real module; functions checked against its signatures."""
        value = getattr(real, name)
        if not name.startswith("cuda") or not callable(value) or inspect.isclass(value):
            return value
        return self._function(name, value)

    @property
    def device(self) -> int:
        """The calling thread's current one."""
        return getattr(self._thread, "device", 0)

    def count(self, name: str) -> int:
        return self.calls.count(name)

    def size_of(self, address: int) -> int:
        assert address in self._memory, f"{address:#x}: no memory, or freed"
        return len(self._memory[address])

    def memory_of(self, name: str) -> list[int]:
        """The addresses that a function gave and that are still held."""
        return [address for address, kind in self.held.items() if kind == name]

    def devices_in_use(self) -> list[int]:
        """The device of everything that is held."""
        return [self._device_of[handle] for handle in self.held]

    def enqueue(self, stream: int, work: Work) -> None:
        """What a launch is: noted, or recorded."""
        self._check_stream(stream)
        self._check_memory(work.uses, self._device_of[stream])
        (self.queues[stream] if self.recording is None else self.recording).append(work)

    def recorded_by(self, owner: object) -> bool:
        """Whether a graph that a context recorded can still be launched."""
        live = (h for h, kind in self.held.items() if kind == "cudaGraphExec")
        return any(work.owner is owner for handle in live for work in self._graphs[handle])

    def cudaGetLastError(self) -> tuple[Any]:  # noqa: N802
        """What the last failed call gave, once."""
        error, self.last_error = self.last_error, SUCCESS
        return (error,)

    def _function(self, name: str, value: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(value)

        def call(*arguments: Any) -> tuple[Any, ...]:
            signature.bind(*arguments)
            if name.startswith("cudaGetError"):
                return tuple(value(*arguments))
            self.calls.append(name)
            recording = self.recording is not None and name in _NOT_WHILE_RECORDING
            assert not recording, f"{name} while recording"
            function = getattr(self, f"_{name}")
            gives = function.__annotations__["return"] != "None"
            if name in self.fail and self.fail[name] == self.count(name):
                self._fail(name, arguments)
                return (ERROR, None) if gives else (ERROR,)
            result = function(*arguments)
            return (SUCCESS, result) if gives else (SUCCESS,)

        return call

    def _fail(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.last_error = ERROR
        if name == "cudaStreamEndCapture":
            self.recording = None
        if name == "cudaStreamSynchronize":  # the work that failed takes the rest with it
            self.queues[arguments[0]].clear()

    def _take(self, name: str, size: int) -> int:
        memory = (ctypes.c_ubyte * size)()
        address = ctypes.addressof(memory)
        ctypes.memset(address, NEVER_WRITTEN, min(size, 1 << 20))
        self._memory[address], self.held[address] = memory, name
        self._device_of[address] = self.device
        return address

    def _give_back(self, handle: int, name: str) -> None:
        assert self.held.pop(int(handle), None) == name, f"{handle} was not made by {name}"
        self._memory.pop(int(handle), None)
        used = any(handle in work.uses for work in self._queued())
        assert not used, f"{name} {handle:#x} freed under queued work"

    def _queued(self) -> Iterator[Work]:
        for queue in self.queues.values():
            yield from queue

    def _new(self, name: str) -> int:
        handle = next(self._handles)
        self.held[handle], self._device_of[handle] = name, self.device
        return handle

    def _check_stream(self, stream: int) -> None:
        assert self.held.get(stream) == "cudaStream", f"{stream}: no stream, or destroyed"
        here, there = self.device, self._device_of[stream]
        assert here == there, f"a stream of device {there} on device {here}"

    def _check_memory(self, addresses: tuple[int, ...], device: int) -> None:
        for address in addresses:
            assert address in self._memory, f"{address:#x}: no memory, or used after it was freed"
            if self.held[address] == "cudaMalloc":
                place = self._device_of[address]
                assert place == device, f"memory of device {place} on device {device}"

    def _cudaGetDeviceCount(self) -> int:  # noqa: N802
        return self._devices

    def _cudaGetDevice(self) -> int:  # noqa: N802
        return self.device

    def _cudaSetDevice(self, device: int) -> None:  # noqa: N802
        assert 0 <= device < self._devices, f"no device {device}"
        self._thread.device = device

    def _cudaMalloc(self, size: int) -> int:  # noqa: N802
        return self._take("cudaMalloc", size)

    def _cudaMallocHost(self, size: int) -> int:  # noqa: N802
        return self._take("cudaMallocHost", size)

    def _cudaFree(self, pointer: int) -> None:  # noqa: N802
        self._give_back(pointer, "cudaMalloc")

    def _cudaFreeHost(self, pointer: int) -> None:  # noqa: N802
        self._give_back(pointer, "cudaMallocHost")

    def _cudaMemcpyAsync(self, to: int, start: int, size: int, kind: Any, stream: int) -> None:  # noqa: N802
        places = {
            real.cudaMemcpyKind.cudaMemcpyHostToDevice: ("cudaMalloc", "cudaMallocHost"),
            real.cudaMemcpyKind.cudaMemcpyDeviceToHost: ("cudaMallocHost", "cudaMalloc"),
        }
        for address, place in zip((to, start), places[kind], strict=True):
            assert self.held.get(address) == place
            assert size <= self.size_of(address)
        self.enqueue(stream, Work(lambda: ctypes.memmove(to, start, size), (to, start)))
        if self.held[to] == "cudaMallocHost":
            ctypes.memset(to, NOT_YET, size)

    def _cudaStreamCreateWithFlags(self, flags: int) -> int:  # noqa: N802
        assert flags == real.cudaStreamNonBlocking
        stream = self._new("cudaStream")
        self.queues[stream] = []
        return stream

    def _cudaStreamDestroy(self, stream: int) -> None:  # noqa: N802
        self._give_back(stream, "cudaStream")
        assert not self.queues.pop(stream), "a stream destroyed with queued work"

    def _cudaStreamSynchronize(self, stream: int) -> None:  # noqa: N802
        assert self.held.get(stream) == "cudaStream"
        queue = self.queues[stream]
        while queue:
            work = queue.pop(0)
            self._check_memory(work.uses, self._device_of[stream])
            work.run()

    def _cudaStreamBeginCapture(self, stream: int, mode: Any) -> None:  # noqa: N802
        self._check_stream(stream)
        assert mode in real.cudaStreamCaptureMode.__members__.values()
        self.recording = []

    def _cudaStreamEndCapture(self, stream: int) -> int:  # noqa: N802
        assert self.recording is not None
        graph = self._new("cudaGraph")
        self._graphs[graph], self.recording = self.recording, None
        return graph

    def _cudaGraphInstantiate(self, graph: int, flags: int) -> int:  # noqa: N802
        assert self.held[graph] == "cudaGraph"
        executable = self._new("cudaGraphExec")
        self._graphs[executable] = self._graphs[graph]
        return executable

    def _cudaGraphLaunch(self, executable: int, stream: int) -> None:  # noqa: N802
        assert self.held[executable] == "cudaGraphExec"
        for work in self._graphs[executable]:
            self.enqueue(stream, work)

    def _cudaGraphDestroy(self, graph: int) -> None:  # noqa: N802
        self._give_back(graph, "cudaGraph")

    def _cudaGraphExecDestroy(self, executable: int) -> None:  # noqa: N802
        """The driver keeps an executable that is under way; here that is an error of ours."""
        assert not any(w in self._graphs[executable] for w in self._queued()), "destroyed under way"
        self._give_back(executable, "cudaGraphExec")
