"""An engine file, checked and deserialised: its tensors, its profiles, its contexts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.errors import AdaptrtError, GateError, InputError, MissingError
from runtimes.executors.tensorrt.buffers import Tensor
from runtimes.executors.tensorrt.kernel_cache import KernelCache
from runtimes.executors.tensorrt.library import is_rtx, make_logger
from runtimes.executors.tensorrt.refit import refit
from runtimes.profiles import Profile
from runtimes.tensors import INPUT_IDS

_BATCHED = INPUT_IDS.name  # whose shape, [batch, tokens], describes a profile


@dataclass(frozen=True, kw_only=True)
class EngineFile:
    """Where an engine is and what it was built for.

    ``weights`` is the ONNX graph (external data beside it) that fills an engine built without
    weights; None for an engine that holds its own. ``profiles`` are the names in the manifest.
    """

    path: Path
    sha256: str
    gpu: str
    version: str
    weights: Path | None = None
    profiles: tuple[str, ...] = ()

    def read(self) -> bytes:
        """The bytes; :class:`GateError` where they are not those the manifest recorded."""
        data = self.path.read_bytes()
        if (digest := hashlib.sha256(data).hexdigest()) != self.sha256:
            raise GateError(
                f"{self.path}: SHA-256 {digest[:12]}…, the manifest recorded {self.sha256[:12]}…; "
                "copy the bundle again or rebuild it"
            )
        return data


class Engine:
    """A deserialised engine on the GPU present (``sm``).

    Raises :class:`MissingError`, with what the engine was built for, where this machine cannot
    load it: another GPU, driver or TensorRT.
    """

    def __init__(self, trt: Any, file: EngineFile, sm: str, kernels: Path | None = None) -> None:
        """``kernels`` is where TensorRT-RTX's compiled ones are kept; None keeps none."""
        self.trt, self.file = trt, file
        self.kernels: KernelCache | None = None
        self._logger = make_logger(trt)
        data = file.read()
        try:
            self._runtime = trt.Runtime(self._logger)  # must outlive the engine
        except TypeError as error:  # how the bindings say that the library made none
            raise self._unusable(sm, b"") from error
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise self._unusable(sm, data)
        if file.weights is not None:
            refit(trt, self._engine, file.weights, self._logger)
        self._how = self._configure(kernels)
        self.tensors = self._read_tensors()
        self.profiles = self._read_profiles()

    def largest_inputs(self, index: int) -> dict[str, tuple[int, ...]]:
        """The greatest shape of every input in a profile."""
        return {t.name: self._profile_shapes(t.name, index)[2] for t in self._inputs()}

    def memory(self, index: int) -> int:
        """Bytes of device memory that a context needs for activations in a profile."""
        return int(self._engine.get_device_memory_size_for_profile_v2(index))

    def create_context(self) -> Any:
        """An execution context whose activation memory the caller provides."""
        context = self._engine.create_execution_context(self._how)
        if context is None:
            raise self.failure("made no execution context")
        return context

    def failure(self, what: str) -> AdaptrtError:
        """An error with TensorRT's last words."""
        return AdaptrtError(f"{self.file.path.name}: TensorRT {what}: {self._logger.last_words()}")

    def _configure(self, kernels: Path | None) -> Any:
        """How contexts are made: the strategy alone, or TensorRT-RTX's configuration.

        TensorRT-RTX compiles a shape's kernels at once, not in the background, where until then
        others run: times and vectors are those of every later call. It records CUDA graphs itself.
        """
        trt = self.trt
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not is_rtx(trt):
            return strategy
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        config.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        if kernels is not None:
            self.kernels = KernelCache(config, kernels)
        return config

    def _inputs(self) -> list[Tensor]:
        return [tensor for tensor in self.tensors if tensor.is_input]

    def _read_tensors(self) -> tuple[Tensor, ...]:
        trt, engine = self.trt, self._engine
        types = {
            trt.DataType.FLOAT: np.float32,
            trt.DataType.HALF: np.float16,
            trt.DataType.INT64: np.int64,
            trt.DataType.INT32: np.int32,
            trt.DataType.BOOL: np.bool_,
        }
        tensors = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            dtype = engine.get_tensor_dtype(name)
            if dtype not in types:
                raise InputError(f"{self.file.path}: {name} has type {dtype}, which NumPy lacks")
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            tensors.append(Tensor(name=name, dtype=np.dtype(types[dtype]), is_input=is_input))
        return tuple(tensors)

    def _read_profiles(self) -> tuple[Profile, ...]:
        if all(t.name != _BATCHED for t in self._inputs()):
            raise InputError(
                f"{self.file.path}: no input {_BATCHED}; not an engine of this project"
            )
        profiles = []
        for index in range(self._engine.num_optimization_profiles):
            low, best, high = ((s[0], s[1]) for s in self._profile_shapes(_BATCHED, index))
            names = self.file.profiles
            name = names[index] if index < len(names) else f"profile {index}"
            profiles.append(Profile(name=name, min=low, opt=best, max=high))
        return tuple(profiles)

    def _profile_shapes(self, name: str, index: int) -> Sequence[tuple[int, ...]]:
        return [tuple(dims) for dims in self._engine.get_tensor_profile_shape(name, index)]

    def _unusable(self, sm: str, data: bytes) -> MissingError:
        trt, file = self.trt, self.file
        words = self._logger.last_words()
        if is_rtx(trt) and data:
            _, bits = self._runtime.get_engine_validity(data)
            known = trt.EngineInvalidityDiagnostics.__members__.items()
            names = [name for name, flag in known if bits & int(flag)]
            words += f" ({', '.join(names) or 'no diagnosis'})"
        return MissingError(
            f"{file.path}: TensorRT cannot load this engine. It was built for {file.gpu} by "
            f"{file.version}; here are {sm} and {trt.__name__} {trt.__version__}. Build it again "
            f"here, or run it where it was built for. TensorRT says: {words}"
        )
