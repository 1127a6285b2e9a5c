"""CUDA through cuda-python: which GPU is present, and a runtime API that raises.

Every function of ``cuda.bindings``, of CUDA 12 and 13 alike, returns a tuple that begins with an
error code; here the code becomes an :class:`AdaptrtError` in CUDA's words.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from runtimes.errors import AdaptrtError, MissingError

INSTALL = "pip install 'adaptrt[gpu]'"


def device_sm(index: int = 0) -> str | None:
    """The GPU's architecture as ``sm90``; None without cuda-python, a driver or a GPU."""
    if (found := _find(index)) is None:
        return None
    driver, device = found
    names = driver.CUdevice_attribute
    major, minor = (
        driver.cuDeviceGetAttribute(attribute, device)[1]
        for attribute in (
            names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    return f"sm{major}{minor}"


def device_name(index: int = 0) -> str | None:
    """The GPU's name as ``NVIDIA L4``; None where :func:`device_sm` is."""
    if (found := _find(index)) is None:
        return None
    driver, device = found
    error, name = driver.cuDeviceGetName(256, device)
    return None if error != 0 else name.partition(b"\0")[0].decode(errors="replace")


def _find(index: int) -> tuple[Any, Any] | None:
    """The driver's API and a GPU's handle."""
    try:
        driver = importlib.import_module("cuda.bindings.driver")
        if driver.cuInit(0)[0] != 0:
            return None
    except (ImportError, RuntimeError):  # cuda-python raises RuntimeError without libcuda
        return None
    error, device = driver.cuDeviceGet(index)
    return None if error != 0 else (driver, device)


def load_cuda(ordinal: int = 0) -> Cuda:
    """The runtime API with that GPU behind it; :class:`MissingError` says what is not there."""
    try:
        api = importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise MissingError(f"cuda-python does not load ({error}); {INSTALL}") from error
    cuda = Cuda(api, ordinal)
    try:
        count = cuda.device_count()
    except (AdaptrtError, RuntimeError) as error:  # before 12.9 without libcuda, as the driver's
        raise MissingError(f"no usable NVIDIA GPU: {error}") from error
    if count == 0:
        raise MissingError("no NVIDIA GPU is visible to this process (CUDA_VISIBLE_DEVICES?)")
    if ordinal >= count:
        raise MissingError(
            f"device: got cuda:{ordinal}, this process sees {count} NVIDIA "
            f"GPU{'s' * (count > 1)}, counted from cuda:0 (CUDA_VISIBLE_DEVICES?)"
        )
    return cuda


class Cuda:
    """The calls an executor makes. Pointers and handles are integers.

    ``api`` is ``cuda.bindings.runtime``, or what stands in for it in a test. Memory and streams
    are of the calling thread's current device, which :meth:`selected` makes the one of
    ``ordinal``.
    """

    def __init__(self, api: Any, ordinal: int = 0) -> None:
        self._api, self.ordinal = api, ordinal

    def _call(self, name: str, *arguments: Any) -> Any:
        error, *values = getattr(self._api, name)(*arguments)
        if error != self._api.cudaError_t.cudaSuccess:
            # Also kept for whoever asks next: TensorRT asks after its launches, and would take
            # this error for its own.
            self.clear_error()
            code = self._api.cudaGetErrorName(error)[1].decode()
            words = self._api.cudaGetErrorString(error)[1].decode()
            raise AdaptrtError(f"{name}: {code} ({words})")
        return values[0] if values else None

    def device_count(self) -> int:
        """GPUs that this process sees."""
        return int(self._call("cudaGetDeviceCount"))

    @contextmanager
    def selected(self) -> Iterator[None]:
        """Make this GPU the calling thread's current one, and leave the former one behind."""
        before = self.get_device()
        self.set_device(self.ordinal)
        try:
            yield
        finally:
            with suppress(AdaptrtError):  # after a CUDA error every call reports that error again
                self.set_device(before)

    def clear_error(self) -> None:
        """Forget the last error, unless it is one that the GPU does not recover from."""
        self._api.cudaGetLastError()

    def get_device(self) -> int:
        """The ordinal of the calling thread's current device."""
        return int(self._call("cudaGetDevice"))

    def set_device(self, ordinal: int) -> None:
        """Make a device the calling thread's current one."""
        self._call("cudaSetDevice", ordinal)

    def malloc(self, size: int) -> int:
        """``size`` bytes of device memory, aligned to at least 256 bytes."""
        return int(self._call("cudaMalloc", size))

    def free(self, pointer: int) -> None:
        """Give device memory back."""
        self._call("cudaFree", pointer)

    def malloc_host(self, size: int) -> int:
        """``size`` bytes of page-locked host memory, which copies need to be asynchronous."""
        return int(self._call("cudaMallocHost", size))

    def free_host(self, pointer: int) -> None:
        """Give page-locked memory back."""
        self._call("cudaFreeHost", pointer)

    def to_device(self, device: int, host: int, size: int, stream: int) -> None:
        """Enqueue a copy of ``size`` bytes from page-locked to device memory."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", device, host, size, kind, stream)

    def to_host(self, host: int, device: int, size: int, stream: int) -> None:
        """Enqueue a copy of ``size`` bytes from device to page-locked memory."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", host, device, size, kind, stream)

    def create_stream(self) -> int:
        """A stream that does not wait for the default stream."""
        return int(self._call("cudaStreamCreateWithFlags", self._api.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        """Release a stream."""
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """Wait for the stream; errors of earlier asynchronous work surface here."""
        self._call("cudaStreamSynchronize", stream)

    def begin_capture(self, stream: int) -> None:
        """Record what this thread enqueues instead of running it."""
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        """The recorded graph."""
        return int(self._call("cudaStreamEndCapture", stream))

    def instantiate(self, graph: int) -> int:
        """An executable of a recorded graph."""
        return int(self._call("cudaGraphInstantiate", graph, 0))

    def launch(self, executable: int, stream: int) -> None:
        """Enqueue a graph."""
        self._call("cudaGraphLaunch", executable, stream)

    def destroy_graph(self, graph: int) -> None:
        """Release a recorded graph; its executables live on."""
        self._call("cudaGraphDestroy", graph)

    def destroy_executable(self, executable: int) -> None:
        """Release an executable graph."""
        self._call("cudaGraphExecDestroy", executable)
