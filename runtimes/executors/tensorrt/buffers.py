"""Memory of one optimisation profile: a pinned host and a device buffer per tensor."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from runtimes.arrays import Arrays
from runtimes.errors import AdaptrtError, InputError
from runtimes.executors.tensorrt.cuda import Cuda

T = TypeVar("T")
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output of an engine."""

    name: str
    dtype: np.dtype[Any]
    is_input: bool

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of an array of this type."""
        return int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize


class Resources(ExitStack):
    """What was taken from CUDA and TensorRT, given back in reverse order."""

    def keep(self, value: T, free: Callable[[T], None]) -> T:
        """Remember how to free ``value``.

        After a CUDA error every later call reports that error again, so freeing ignores errors:
        the first one is what the caller sees.
        """

        def quietly() -> None:
            with suppress(AdaptrtError):
                free(value)

        self.callback(quietly)
        return value


class Buffers:
    """Buffers for tensors of at most the given shapes; allocated once, reused by every call.

    TensorRT reinterprets bytes and converts nothing, so an array's type must be the tensor's.
    """

    def __init__(
        self, cuda: Cuda, resources: Resources, tensors: tuple[Tensor, ...], largest: Shapes
    ) -> None:
        self._cuda, self._tensors = cuda, tensors
        self._largest = largest
        self._host: dict[str, int] = {}
        self.device: dict[str, int] = {}
        for tensor in tensors:
            size = max(1, tensor.nbytes(largest[tensor.name]))
            try:
                host = resources.keep(cuda.malloc_host(size), cuda.free_host)
                self._host[tensor.name] = host
                self.device[tensor.name] = resources.keep(cuda.malloc(size), cuda.free)
            except AdaptrtError as error:
                raise AdaptrtError(
                    f"{tensor.name}: no buffer of {size} bytes for shape "
                    f"{list(largest[tensor.name])}: {error}"
                ) from error

    def upload(self, arrays: Arrays, stream: int) -> None:
        """Enqueue the copies of all inputs to the device."""
        for tensor in (t for t in self._tensors if t.is_input):
            array = arrays[tensor.name]
            self._array(tensor, array.shape)[...] = array
            device, host = self.device[tensor.name], self._host[tensor.name]
            self._cuda.to_device(device, host, tensor.nbytes(array.shape), stream)

    def download(self, shapes: Shapes, stream: int) -> None:
        """Enqueue the copies of all outputs to the host."""
        for tensor in (t for t in self._tensors if not t.is_input):
            size = tensor.nbytes(shapes[tensor.name])
            self._cuda.to_host(self._host[tensor.name], self.device[tensor.name], size, stream)

    def results(self, shapes: Shapes) -> dict[str, NDArray[Any]]:
        """Copies of the outputs; valid once the stream is synchronised."""
        outputs = (t for t in self._tensors if not t.is_input)
        return {t.name: self._array(t, shapes[t.name]).copy() for t in outputs}

    def _array(self, tensor: Tensor, shape: tuple[int, ...]) -> NDArray[Any]:
        """The pinned host buffer as an array."""
        size = tensor.nbytes(shape)
        if size > max(1, tensor.nbytes(self._largest[tensor.name])):
            raise AdaptrtError(
                f"{tensor.name}: shape {list(shape)} needs {size} bytes, the buffer was made for "
                f"{list(self._largest[tensor.name])}"
            )
        memory = (ctypes.c_ubyte * size).from_address(self._host[tensor.name])
        array: NDArray[Any] = np.frombuffer(memoryview(memory), tensor.dtype)
        return array.reshape(shape)


def check_inputs(tensors: tuple[Tensor, ...], arrays: Arrays) -> None:
    """Refuse missing, unknown and wrongly typed inputs."""
    names = [t.name for t in tensors if t.is_input]
    if set(arrays) != set(names):
        raise InputError(f"inputs: got {', '.join(arrays)}, expected {', '.join(names)}")
    for tensor in (t for t in tensors if t.is_input):
        array = arrays[tensor.name]
        if array.dtype != tensor.dtype:
            raise InputError(
                f"{tensor.name}: got {array.dtype} of shape {list(array.shape)}, the engine takes "
                f"{tensor.dtype}"
            )
