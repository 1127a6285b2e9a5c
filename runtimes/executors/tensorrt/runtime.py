"""TensorRT and TensorRT-RTX behind the :class:`~runtimes.executors.base.Runtime` seam."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtimes.arrays import Arrays
from runtimes.choices import Target
from runtimes.errors import InputError, MissingError
from runtimes.executors.base import RuntimeBase, while_open
from runtimes.executors.tensorrt.buffers import Resources, check_inputs
from runtimes.executors.tensorrt.cuda import Cuda, device_sm, load_cuda
from runtimes.executors.tensorrt.engine import Engine, EngineFile
from runtimes.executors.tensorrt.library import is_rtx, load_tensorrt
from runtimes.executors.tensorrt.profile_runner import ProfileRunner
from runtimes.manifest import Artifact, Manifest
from runtimes.profiles import choose
from runtimes.tasks import check_task_ids
from runtimes.tensors import ATTENTION_MASK, INPUT_IDS, TASK_ID, Tensor, check_shapes
from runtimes.text.batching import GPU


class TrtRuntime(RuntimeBase):
    """An engine on one GPU, on a stream of its own.

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
        tasks: Sequence[str] = (),
    ) -> None:
        """``trt`` is the flavour's module; ``inputs`` describe the axes that shapes are held to.

        ``tasks`` are the names that ``task_id`` counts.
        """
        self.name = f"{Target.TENSORRT_RTX if is_rtx(trt) else Target.TENSORRT}-{sm}"
        self._cuda, self._inputs, self._tasks = cuda, tuple(inputs), tuple(tasks)
        self._lock = threading.Lock()
        self._runners: dict[int, ProfileRunner] = {}
        self._engine = Engine(trt, file, sm)
        self.profiles = self._engine.profiles
        self.budget = replace(GPU, profiles=self.profiles)
        self._resources = Resources()
        self._stream = self._resources.keep(cuda.create_stream(), cuda.destroy_stream)

    @while_open
    def run(self, inputs: Arrays) -> Arrays:
        """Execute once; every output of the engine by name."""
        with self._lock:
            self.check_open()  # the call that was waited for may have failed
            check_inputs(self._engine.tensors, inputs)
            check_task_ids(inputs, self._tasks)
            runner = self._runner(inputs)
            try:
                return runner.run(inputs)
            except BaseException:
                self.close()
                raise

    @while_open
    def profile_memory(self) -> list[int]:
        """Bytes of device memory for activations, per profile."""
        return [self._engine.memory(index) for index in range(len(self.profiles))]

    def _runner(self, inputs: Arrays) -> ProfileRunner:
        check_shapes(self._inputs, inputs)
        shape = inputs[INPUT_IDS.name].shape
        index = choose(self.profiles, *shape)
        if index is None:
            known = ", ".join(map(str, self.profiles))
            raise InputError(f"input_ids: shape {list(shape)} fits no profile of {known}")
        if index not in self._runners:
            self._runners[index] = ProfileRunner(self._engine, index, self._cuda, self._stream)
        return self._runners[index]

    def _free(self) -> None:
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
    tasks: Sequence[str],
) -> TrtRuntime:
    """The executor for a bundle's engine on the GPU that is present.

    ``inputs`` and ``tasks`` as :class:`TrtRuntime` takes them.
    Raises :class:`InputError` for a bundle without engines of this flavour and
    :class:`MissingError` without the library, without a GPU, or where no engine was built for it.
    """
    engines = manifest.engines(flavour)
    if not engines:
        raise InputError(
            f"{folder}: no {flavour} engine, the bundle was built for "
            f"{manifest.target.name}; build one with `make engine TARGET={flavour}`"
        )
    trt = load_tensorrt(flavour)
    cuda = load_cuda()
    sm = device_sm() or "unknown"
    file = engine_file(folder, manifest, flavour, sm)
    return TrtRuntime(trt, file, cuda, sm, inputs=inputs, tasks=tasks)


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
        f"Build one: `make engine TARGET={flavour} GPU={sm}`"
    )


def _weights(folder: Path, manifest: Manifest, engine: Artifact) -> Path | None:
    if not engine.stripped:
        return None
    if (graph := manifest.engine_graph) is None:
        raise InputError(f"{folder}: {engine.path} has no weights, nor has the bundle their graph")
    return folder / graph.path
