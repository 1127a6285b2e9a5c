"""TensorRT and TensorRT-RTX behind the :class:`~runtimes.executors.base.Runtime` seam."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtimes.arrays import Arrays
from runtimes.choices import Target
from runtimes.errors import AdaptrtError, InputError, MissingError
from runtimes.executors.base import RuntimeBase, while_open
from runtimes.executors.tensorrt.buffers import Resources, check_inputs
from runtimes.executors.tensorrt.cuda import Cuda, device_name, device_sm, load_cuda
from runtimes.executors.tensorrt.engine import Engine, EngineFile
from runtimes.executors.tensorrt.kernel_cache import cache_path
from runtimes.executors.tensorrt.library import check_release, is_rtx, load_tensorrt
from runtimes.executors.tensorrt.padding import Sizes, cut_outputs, grid_sizes, pad_inputs
from runtimes.executors.tensorrt.profile_runner import ProfileRunner
from runtimes.manifest import Artifact, Manifest
from runtimes.profiles import choose
from runtimes.tasks import check_task_ids
from runtimes.tensors import (
    ATTENTION_MASK,
    INPUT_IDS,
    SENTENCE_EMBEDDING,
    TASK_ID,
    Tensor,
    check_shapes,
)
from runtimes.text.batching import GPU


class TrtRuntime(RuntimeBase):
    """An engine on one GPU, on a stream of its own, whatever the caller's current device is.

    A profile's memory is taken when the first batch needs it and kept. Calls from several threads
    run one after the other. A failed execution leaves the GPU's state unknown, so it closes the
    runtime; a refused input does not.
    """

    def __init__(
        self,
        trt: Any,
        file: EngineFile,
        cuda: Cuda,
        sm: str,
        *,
        inputs: Sequence[Tensor] = (INPUT_IDS, ATTENTION_MASK, TASK_ID),
        outputs: Sequence[Tensor] = (SENTENCE_EMBEDDING,),
        tasks: Sequence[str] = (),
        kernels: Path | None = None,
    ) -> None:
        """``trt`` is the flavour's module; ``inputs`` describe the axes that shapes are held to.

        Calls are padded to shapes that repeat (:mod:`.padding`), and ``outputs`` cut again.
        ``tasks`` are the names that ``task_id`` counts. ``kernels`` is the file of
        :mod:`.kernel_cache`; None keeps none.
        """
        self._belongs_here()
        self.name = f"{Target.TENSORRT_RTX if is_rtx(trt) else Target.TENSORRT}-{sm}"
        self._cuda, self._tasks = cuda, tuple(tasks)
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._lock = threading.Lock()
        self._runners: dict[int, ProfileRunner] = {}
        self._shapes: set[tuple[tuple[int, ...], ...]] = set()  # that have run, for the kernels
        self._resources = Resources()
        with cuda.selected():
            self._engine = Engine(trt, file, sm, kernels)
            self._stream = self._resources.keep(cuda.create_stream(), cuda.destroy_stream)
        self.profiles = self._engine.profiles
        self._limits = [self._limits_of(index) for index in range(len(self.profiles))]
        self.budget = replace(GPU, profiles=self.profiles)

    @while_open
    def run(self, inputs: Arrays) -> Arrays:
        """Execute once; every output of the engine by name."""
        with self._lock, self._cuda.selected():
            self.check_open()  # the call that was waited for may have failed
            check_inputs(self._engine.tensors, inputs)
            check_task_ids(inputs, self._tasks)
            sizes = check_shapes(self._inputs, inputs)
            index = self._choose(inputs[INPUT_IDS.name].shape)
            padded = pad_inputs(self._inputs, inputs, self._grid(sizes, index))
            runner = self._runner(index)
            shapes = runner.prepare({name: array.shape for name, array in padded.items()})
            try:
                outputs = runner.run(padded, shapes)
            except BaseException:
                self._engine.kernels = None  # what it compiled is not asked of a GPU in error
                self.close()
                raise
            self._keep_kernels(padded)
        return cut_outputs(self._outputs, outputs, sizes)

    @while_open
    def profile_memory(self) -> list[int]:
        """Bytes of device memory for activations, per profile."""
        return [self._engine.memory(index) for index in range(len(self.profiles))]

    def _keep_kernels(self, inputs: Arrays) -> None:
        shape = tuple(array.shape for array in inputs.values())
        if self._engine.kernels is not None and shape not in self._shapes:
            self._shapes.add(shape)
            self._engine.kernels.count_shape()

    def _choose(self, shape: tuple[int, ...]) -> int:
        index = choose(self.profiles, *shape)
        if index is None:
            known = ", ".join(map(str, self.profiles))
            raise InputError(f"input_ids: shape {list(shape)} fits no profile of {known}")
        return index

    def _grid(self, sizes: Sizes, index: int) -> Sizes:
        """What a call's axes are padded to."""
        limits, profile = self._limits[index], self.profiles[index]
        return grid_sizes(sizes, limits, profile, compiles=is_rtx(self._engine.trt))

    def _limits_of(self, index: int) -> Sizes:
        """The greatest size of every axis of the inputs in a profile."""
        largest = self._engine.largest_inputs(index)
        return {
            axis: size
            for tensor in self._inputs
            if tensor.name in largest
            for axis, size in zip(tensor.axes, largest[tensor.name], strict=True)
        }

    def _runner(self, index: int) -> ProfileRunner:
        if index not in self._runners:
            self._runners[index] = ProfileRunner(self._engine, index, self._cuda, self._stream)
        return self._runners[index]

    def _free(self) -> None:
        with ExitStack() as stack:
            with suppress(AdaptrtError):  # a GPU in error refuses; what it holds is freed anyway
                stack.enter_context(self._cuda.selected())
            self._release()

    def _release(self) -> None:
        if self._engine.kernels is not None:
            self._engine.kernels.save()
        for runner in self._runners.values():
            runner.close()
        self._runners.clear()
        self._resources.close()
        del self._engine


def open_engine(
    folder: Path,
    manifest: Manifest,
    flavour: Target,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    tasks: Sequence[str],
    *,
    ordinal: int = 0,
) -> TrtRuntime:
    """The executor for a bundle's engine on the GPU of that ordinal.

    ``inputs``, ``outputs`` and ``tasks`` as :class:`TrtRuntime` takes them.
    Raises :class:`InputError` for a bundle without engines of this flavour and
    :class:`MissingError` without the library, without a GPU, or where no engine was built for it.
    """
    engines = manifest.engines(flavour)
    if not engines:
        raise InputError(
            f"{folder}: no {flavour} engine, the bundle was built for "
            f"{manifest.target.name}; {_how_to_build(manifest, flavour)}"
        )
    trt = load_tensorrt(flavour)
    check_release(trt, manifest.target.name)
    cuda = load_cuda(ordinal)
    sm = device_sm(ordinal) or "unknown"
    file = engine_file(folder, manifest, flavour, sm)
    kernels = cache_path(file.sha256, device_name(ordinal) or sm, trt.__version__)
    return TrtRuntime(
        trt, file, cuda, sm, inputs=inputs, outputs=outputs, tasks=tasks, kernels=kernels
    )


def engine_file(folder: Path, manifest: Manifest, flavour: Target, sm: str) -> EngineFile:
    """The engine of a bundle that was built for ``sm``."""
    version = manifest.versions.get("tensorrt", "an unrecorded version")
    engines = manifest.engines(flavour)
    for engine in engines:
        if engine.gpu == sm:
            return EngineFile(
                path=folder / engine.path,
                sha256=engine.sha256,
                gpu=sm,
                version=version,
                weights=_weights(folder, manifest, engine),
                profiles=tuple(profile.name for profile in manifest.profiles),
            )
    built = ", ".join(str(engine.gpu) for engine in engines)
    raise MissingError(
        f"{folder}: no engine for this GPU, {sm}; its engines were built for {built} by {version}. "
        + _how_to_build(manifest, flavour, f" GPU={sm}")
    )


def _how_to_build(manifest: Manifest, flavour: Target, more: str = "") -> str:
    if manifest.target.name is Target.TENSORRT10:
        return "build one on the device that it is for: python3 build_engine.py, in that folder"
    return f"build one with `make engine TARGET={flavour}{more}`"


def _weights(folder: Path, manifest: Manifest, engine: Artifact) -> Path | None:
    if not engine.stripped:
        return None
    if (graph := manifest.engine_graph) is None:
        raise InputError(f"{folder}: {engine.path} has no weights, nor has the bundle their graph")
    return folder / graph.path
