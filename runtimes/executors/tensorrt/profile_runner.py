"""Execution in one optimisation profile: memory, contexts and recorded CUDA graphs."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from runtimes.arrays import Arrays
from runtimes.errors import AdaptrtError
from runtimes.executors.tensorrt.buffers import Buffers, Resources, Shapes
from runtimes.executors.tensorrt.cuda import Cuda
from runtimes.executors.tensorrt.engine import Engine
from runtimes.executors.tensorrt.library import is_rtx

GRAPHS = 16  # recorded shapes per profile; each costs a context
_ALIGNMENT = 256

Key = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class _Recording:
    """A CUDA graph, the context it was recorded from (which must stay untouched), its outputs."""

    executable: int
    context: Any
    outputs: Shapes


class ProfileRunner:
    """Runs batches whose shapes one profile holds.

    Activations and tensors have fixed places, so contexts can share them: one context serves
    changing shapes, and each recorded graph keeps the one it came from, because changing a context
    after recording makes its graph undefined.
    """

    def __init__(self, engine: Engine, index: int, cuda: Cuda, stream: int) -> None:
        """Take the memory; on an error everything taken is given back."""
        self._engine, self._index, self._cuda, self._stream = engine, index, cuda, stream
        self._recordings: OrderedDict[Key, _Recording | None] = OrderedDict()
        self._records = not is_rtx(engine.trt)  # TensorRT-RTX records by itself
        self.profile = engine.profiles[index]
        self.memory = max(engine.memory(index), _ALIGNMENT)
        with Resources() as resources:
            self._activations = resources.keep(self._take_memory(), cuda.free)
            context = self._new_context()
            largest = engine.largest_inputs(index)
            outputs = self._set_shapes(context, largest)
            self._buffers = Buffers(cuda, resources, engine.tensors, {**largest, **outputs})
            self._context = self._bind(context)
            self._resources = resources.pop_all()

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Execute once and wait."""
        shapes = {name: array.shape for name, array in inputs.items()}
        self._buffers.upload(inputs, self._stream)
        outputs = self._execute(shapes)
        self._buffers.download(outputs, self._stream)
        self._cuda.synchronize(self._stream)
        return self._buffers.results(outputs)

    def close(self) -> None:
        """Give everything back; graphs and contexts before the memory they use."""
        while self._recordings:
            self._forget_oldest()
        self._context = None
        self._resources.close()

    def _execute(self, shapes: Shapes) -> Shapes:
        if not self._records:
            return self._enqueue(self._context, shapes)
        key = tuple(shapes.items())
        if key not in self._recordings:
            self._recordings[key] = None  # seen once; recorded when it comes again
            if len(self._recordings) > GRAPHS:
                self._forget_oldest()
            return self._enqueue(self._context, shapes)
        self._recordings.move_to_end(key)
        recording = self._recordings[key]
        if recording is None:
            self._recordings[key], outputs = self._record(shapes)
            return outputs
        self._cuda.launch(recording.executable, self._stream)
        return recording.outputs

    def _record(self, shapes: Shapes) -> tuple[_Recording | None, Shapes]:
        """Run in a context of its own, then record the same once more.

        The first run also settles what changed shapes need, which must not be recorded.
        """
        context = self._bind(self._new_context())
        outputs = self._enqueue(context, shapes)
        try:
            return _Recording(self._capture(context), context, outputs), outputs
        except AdaptrtError as error:
            self._records = False
            warnings.warn(f"no CUDA graphs, launches only: {error}", RuntimeWarning, stacklevel=2)
            return None, outputs

    def _capture(self, context: Any) -> int:
        self._cuda.begin_capture(self._stream)
        enqueued = context.execute_async_v3(self._stream)
        graph = self._cuda.end_capture(self._stream)  # raises where the recording is invalid
        try:
            if not enqueued:
                raise self._engine.failure("did not execute while recording")
            return self._cuda.instantiate(graph)
        finally:
            self._cuda.destroy_graph(graph)

    def _enqueue(self, context: Any, shapes: Shapes) -> Shapes:
        outputs = self._set_shapes(context, shapes)
        if not context.execute_async_v3(self._stream):
            raise self._engine.failure(f"did not execute shapes {_listed(shapes)}")
        return outputs

    def _set_shapes(self, context: Any, shapes: Shapes) -> Shapes:
        """Set the inputs' shapes; the outputs' shapes that follow."""
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise self._engine.failure(
                    f"refused shape {list(shape)} of {name} in profile {self.profile}"
                )
        outputs = {}
        for tensor in (t for t in self._engine.tensors if not t.is_input):
            shape = tuple(context.get_tensor_shape(tensor.name))
            if min(shape, default=0) < 0:
                raise self._engine.failure(
                    f"gave no shape of {tensor.name} for {_listed(shapes)}, but {list(shape)}"
                )
            outputs[tensor.name] = shape
        return outputs

    def _new_context(self) -> Any:
        context = self._engine.create_context()
        if not context.set_optimization_profile_async(self._index, self._stream):
            raise self._engine.failure(f"refused profile {self.profile}")
        self._cuda.synchronize(self._stream)
        context.set_device_memory(self._activations, self.memory)
        return context

    def _bind(self, context: Any) -> Any:
        for name, address in self._buffers.device.items():
            if not context.set_tensor_address(name, address):
                raise self._engine.failure(f"refused the address of {name}")
        return context

    def _take_memory(self) -> int:
        try:
            return self._cuda.malloc(self.memory)
        except AdaptrtError as error:
            raise AdaptrtError(
                f"profile {self.profile} needs {self.memory / 2**20:.0f} MiB for activations: "
                f"{error}; use a smaller profile or free the GPU"
            ) from error

    def _forget_oldest(self) -> None:
        _, recording = self._recordings.popitem(last=False)
        if recording is not None:
            with Resources() as resources:
                resources.keep(recording.executable, self._cuda.destroy_executable)


def _listed(shapes: Shapes) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
