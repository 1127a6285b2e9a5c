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
# Bytes that a tensor is given at once. Ids, masks and vectors of 32 × 8192 tokens need 2 MiB, but
# chunk weights (32 × 1024 × 8192 FP32) and token vectors 1 GiB, which hardly any call fills.
AT_ONCE = 16 << 20


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


@dataclass(frozen=True)
class _Pair:
    """``size`` bytes on either side, and what frees them."""

    host: int
    device: int
    size: int
    resources: Resources


class Buffers:
    """Buffers for tensors of at most the given shapes, reused by every call.

    A tensor of more than :data:`AT_ONCE` bytes grows with the calls that need it, by powers of
    two. TensorRT reinterprets bytes and converts nothing, so an array's type must be the tensor's.
    """

    def __init__(self, cuda: Cuda, tensors: tuple[Tensor, ...], largest: Shapes) -> None:
        self._cuda, self._tensors = cuda, tensors
        self._limits = {tensor.name: tensor.nbytes(largest[tensor.name]) for tensor in tensors}
        self._pairs: dict[str, _Pair] = {}
        first = {t.name: min(self._limits[t.name], AT_ONCE) for t in tensors}
        self._take(first, largest)

    @property
    def addresses(self) -> dict[str, int]:
        """Of the device buffers, by tensor; another one after a tensor has grown."""
        return {name: pair.device for name, pair in self._pairs.items()}

    def grow(self, shapes: Shapes) -> bool:
        """Make room for arrays of these shapes; whether addresses changed.

        Nothing may be under way. On an error everything is as before.
        """
        needed = {t.name: t.nbytes(shapes[t.name]) for t in self._tensors}
        for name, size in needed.items():
            if size > self._limits[name]:
                raise AdaptrtError(
                    f"{name}: shape {list(shapes[name])} needs {size} bytes, the engine's profile "
                    f"ends at {self._limits[name]}"
                )
        short = {
            name: min(self._limits[name], 1 << (size - 1).bit_length())
            for name, size in needed.items()
            if size > self._pairs[name].size
        }
        self._take(short, shapes)
        return bool(short)

    def upload(self, arrays: Arrays, stream: int) -> None:
        """Enqueue the copies of all inputs to the device."""
        for tensor in (t for t in self._tensors if t.is_input):
            array, pair = arrays[tensor.name], self._pairs[tensor.name]
            self._array(tensor, array.shape)[...] = array
            self._cuda.to_device(pair.device, pair.host, tensor.nbytes(array.shape), stream)

    def download(self, shapes: Shapes, stream: int) -> None:
        """Enqueue the copies of all outputs to the host."""
        for tensor in (t for t in self._tensors if not t.is_input):
            pair, size = self._pairs[tensor.name], tensor.nbytes(shapes[tensor.name])
            self._cuda.to_host(pair.host, pair.device, size, stream)

    def results(self, shapes: Shapes) -> dict[str, NDArray[Any]]:
        """Copies of the outputs; valid once the stream is synchronised."""
        outputs = (t for t in self._tensors if not t.is_input)
        return {t.name: self._array(t, shapes[t.name]).copy() for t in outputs}

    def close(self) -> None:
        """Give everything back."""
        while self._pairs:
            self._pairs.popitem()[1].resources.close()

    def _take(self, sizes: Mapping[str, int], shapes: Shapes) -> None:
        """Buffers of these sizes in place of those there are; all of them or none."""
        pairs: dict[str, _Pair] = {}
        with Resources() as taken:
            for name, size in sizes.items():
                pairs[name] = self._take_pair(name, max(1, size), shapes[name])
                taken.callback(pairs[name].resources.close)
            taken.pop_all()
        for name, pair in pairs.items():
            old, self._pairs[name] = self._pairs.get(name), pair
            if old is not None:
                old.resources.close()

    def _take_pair(self, name: str, size: int, shape: tuple[int, ...]) -> _Pair:
        with Resources() as taken:
            try:
                host = taken.keep(self._cuda.malloc_host(size), self._cuda.free_host)
                device = taken.keep(self._cuda.malloc(size), self._cuda.free)
            except AdaptrtError as error:
                raise AdaptrtError(
                    f"{name}: no buffer of {size} bytes for shape {list(shape)}: {error}"
                ) from error
            return _Pair(host, device, size, taken.pop_all())

    def _array(self, tensor: Tensor, shape: tuple[int, ...]) -> NDArray[Any]:
        """The pinned host buffer as an array."""
        memory = (ctypes.c_ubyte * tensor.nbytes(shape)).from_address(self._pairs[tensor.name].host)
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
