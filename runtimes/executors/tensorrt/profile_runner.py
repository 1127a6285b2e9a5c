"""Execution in one optimisation profile: memory, contexts and recorded CUDA graphs."""

from __future__ import annotations

import warnings
from typing import Any

from numpy.typing import NDArray

from runtimes.arrays import Arrays
from runtimes.errors import AdaptrtError
from runtimes.executors.tensorrt.buffers import Buffers, Resources, Shapes
from runtimes.executors.tensorrt.cuda import Cuda
from runtimes.executors.tensorrt.engine import Engine
from runtimes.executors.tensorrt.library import is_rtx
from runtimes.executors.tensorrt.padding import GRAPH_TOKENS
from runtimes.executors.tensorrt.recordings import Recording, Recordings
from runtimes.tensors import INPUT_IDS

_ALIGNMENT = 256


class ProfileRunner:
    """Runs batches whose shapes one profile holds.

    Activations and tensors have fixed places, so contexts can share them: one context serves
    changing shapes, and each recorded graph keeps the one it came from, because changing a context
    after recording makes its graph undefined. A tensor that grows moves; graphs are then given up.
    """

    def __init__(self, engine: Engine, index: int, cuda: Cuda, stream: int) -> None:
        """Take the memory; on an error everything taken is given back."""
        self._engine, self._index, self._cuda, self._stream = engine, index, cuda, stream
        self._records = not is_rtx(engine.trt)  # TensorRT-RTX records by itself
        self._recordings = Recordings(cuda)
        self.profile = engine.profiles[index]
        self.memory = max(engine.memory(index), _ALIGNMENT)
        with Resources() as resources:
            self._activations = resources.keep(self._take_memory(), cuda.free)
            resources.keep(stream, cuda.synchronize)  # nothing is freed under what is under way
            self._context = engine.create_context()
            self._select_profile(self._context)
            largest = engine.largest_inputs(index)
            outputs = self._set_shapes(self._context, largest)
            self._buffers = Buffers(cuda, engine.tensors, {**largest, **outputs})
            resources.callback(self._buffers.close)
            resources.callback(self._recordings.close)
            resources.keep(stream, cuda.synchronize)
            self._bind(self._context)
            self._bound = True  # whether it has the buffers' addresses
            self._resources = resources.pop_all()

    def prepare(self, shapes: Shapes) -> Shapes:
        """Set the inputs' shapes and make room; the outputs' shapes. Nothing runs.

        A refusal is an :class:`AdaptrtError` that leaves everything usable.
        """
        if (recording := self._recordings.find(shapes)) is not None:
            return recording.outputs
        outputs = self._set_shapes(self._context, shapes)
        if self._buffers.grow({**shapes, **outputs}):
            self._recordings.clear()
            self._bound = False
        return outputs

    def run(self, inputs: Arrays, outputs: Shapes) -> dict[str, NDArray[Any]]:
        """Execute once and wait; ``outputs`` are the shapes that :meth:`prepare` gave."""
        shapes = {name: array.shape for name, array in inputs.items()}
        if not self._bound:
            self._bind(self._context)
            self._bound = True
        self._buffers.upload(inputs, self._stream)
        self._execute(shapes, outputs)
        self._buffers.download(outputs, self._stream)
        self._cuda.synchronize(self._stream)
        return self._buffers.results(outputs)

    def close(self) -> None:
        """Wait, and give everything back; graphs and contexts before the memory they use."""
        self._resources.close()
        self._context = None

    def _execute(self, shapes: Shapes, outputs: Shapes) -> None:
        if (recording := self._recordings.find(shapes)) is not None:
            self._cuda.launch(recording.executable, self._stream)
        elif self._records and _is_small(shapes) and self._recordings.is_due(shapes):
            self._record(shapes, outputs)
        else:
            self._enqueue(self._context, shapes)

    def _record(self, shapes: Shapes, outputs: Shapes) -> None:
        """Run in a context of its own, then record the same once more.

        The first run also settles what changed shapes need, which must not be recorded, so it is
        waited for.
        """
        if (context := self._recordings.take_context()) is None:
            try:
                context = self._engine.create_context()
            except AdaptrtError as error:
                self._stop_recording(error)
                return self._enqueue(self._context, shapes)
            self._select_profile(context)
        self._set_shapes(context, shapes)
        self._bind(context)
        self._enqueue(context, shapes)
        self._cuda.synchronize(self._stream)
        try:
            self._recordings.add(shapes, Recording(self._capture(context), context, outputs))
        except AdaptrtError as error:
            self._stop_recording(error)
        return None

    def _stop_recording(self, error: AdaptrtError) -> None:
        self._cuda.clear_error()  # also one that TensorRT met and left behind
        self._records = False
        warnings.warn(f"no CUDA graphs, launches only: {error}", RuntimeWarning, stacklevel=2)

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

    def _enqueue(self, context: Any, shapes: Shapes) -> None:
        if not context.execute_async_v3(self._stream):
            raise self._engine.failure(f"did not execute shapes {_listed(shapes)}")

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

    def _select_profile(self, context: Any) -> None:
        """The profile, whose own copies are waited for, then the memory that it needs."""
        if not context.set_optimization_profile_async(self._index, self._stream):
            raise self._engine.failure(f"refused profile {self.profile}")
        self._cuda.synchronize(self._stream)
        context.set_device_memory(self._activations, self.memory)

    def _bind(self, context: Any) -> None:
        for name, address in self._buffers.addresses.items():
            if not context.set_tensor_address(name, address):
                raise self._engine.failure(f"refused the address of {name}")

    def _take_memory(self) -> int:
        try:
            return self._cuda.malloc(self.memory)
        except AdaptrtError as error:
            raise AdaptrtError(
                f"profile {self.profile} needs {self.memory / 2**20:.0f} MiB for activations: "
                f"{error}; use a smaller profile or free the GPU"
            ) from error


def _is_small(shapes: Shapes) -> bool:
    """Whether launches are a part of its time that a graph can save."""
    rows, tokens = shapes[INPUT_IDS.name]
    return rows * tokens <= GRAPH_TOKENS


def _listed(shapes: Shapes) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
