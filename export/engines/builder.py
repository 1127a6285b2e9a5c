"""The TensorRT builder, for both flavours: the module is a value.

``tensorrt_rtx`` builds ahead of time for any RTX architecture with no GPU present;
``tensorrt`` builds for the GPU it runs on. Both build strongly typed networks: precision is what
the graph says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tqdm import tqdm

from export.console.progress import bars_shown, log
from export.engines.plan import Plan
from export.engines.plan_inspector import inspected, read_information
from export.engines.plan_log import plan_lines, read_log
from export.engines.profiles import engine_profiles
from export.spec import Limits
from runtimes.errors import AdaptrtError, InputError, MissingError
from runtimes.executors.tensorrt.library import is_rtx, make_logger
from runtimes.files import replacing
from runtimes.tensors import ATTENTION_MASK, INPUT_IDS, Tensor


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """One engine: its shapes, a GPU architecture (None: the GPU present), workspace bytes.

    ``inputs`` are the graph's; their axes say which part of a profile's shapes each takes.
    ``profiles`` are names (see :mod:`export.engines.profiles`); without any, one profile spans the
    limits. ``refittable`` leaves the weights out: they are put in when the engine is loaded.
    """

    limits: Limits
    gpu: str | None
    workspace: int
    inputs: tuple[Tensor, ...] = (INPUT_IDS, ATTENTION_MASK)
    timing_cache: Path | None = None
    profiles: tuple[str, ...] = ()
    refittable: bool = False


def check_gpus(trt: ModuleType, gpus: tuple[str, ...]) -> None:
    """Refuse an architecture this TensorRT-RTX release cannot build for."""
    known = sorted(n.lower() for n in dir(trt.ComputeCapability) if n.startswith("SM"))
    if unknown := [gpu for gpu in gpus if gpu not in known]:
        raise InputError(
            f"GPU: {unknown[0]} is not one TensorRT-RTX {trt.__version__} builds for, "
            f"expected some of {', '.join(known)}; data-centre GPUs need TARGET=tensorrt"
        )


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """What the builder said of an engine, for each of its profiles.

    ``memory`` are the bytes of device memory for activations, None where it does not tell.
    ``plans`` are the kernels that it compiled.
    """

    memory: tuple[int, ...] | None
    plans: tuple[Plan, ...]


def build_engine(trt: Any, graph: Path, out: Path, spec: EngineSpec) -> BuiltEngine:
    """Build ``graph`` (with the external data beside it) into the engine file ``out``.

    Raises :class:`AdaptrtError` with the parser's words and the node's name, with the builder's
    last errors, or where TensorRT-RTX does not tell what it compiled.
    """
    logger = make_logger(trt)
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # how the bindings say that their library made none
        raise MissingError(
            f"TensorRT made no builder ({'; '.join(logger.errors) or error}); "
            "it needs an NVIDIA driver and a GPU"
        ) from error
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        raise AdaptrtError(f"{graph.name}: TensorRT cannot read the graph: {_parse_errors(parser)}")
    config = _configure(trt, builder, network, spec)
    hidden = not bars_shown()
    with tqdm(total=0, desc=f"engine {spec.gpu or 'local'}", disable=hidden, leave=False) as bar:
        monitor = make_monitor(trt, bar)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
    if monitor.interrupted is not None:
        raise monitor.interrupted
    if plan is None:
        words = logger.last_words()
        if "OutOfMemory" in words:  # activations at the largest shape
            words += (
                f"; WORKSPACE is {spec.workspace / 2**30:g} GiB: raise it, or lower MAX_BATCH or "
                "MAX_TOKENS"
            )
        raise AdaptrtError(f"{graph.name}: TensorRT built no engine for {spec.gpu}: {words}")
    with out.open("wb") as stream:
        stream.write(plan)
    if spec.timing_cache is not None:
        spec.timing_cache.parent.mkdir(parents=True, exist_ok=True)
        with replacing(spec.timing_cache) as staged:
            staged.write_bytes(config.get_timing_cache().serialize())
    memory, profiles = tuple(logger.activation_memory), int(config.num_optimization_profiles)
    return BuiltEngine(
        memory=memory if len(memory) == profiles else None,
        plans=(_plans if is_rtx(trt) else _inspected_plans)(
            trt, logger, memoryview(plan), profiles, spec
        ),
    )


def _plans(
    trt: Any, logger: Any, engine: memoryview, profiles: int, spec: EngineSpec
) -> tuple[Plan, ...]:
    lines = [line for message in logger.compiled for line in plan_lines(message)]
    builder = f"{trt.__name__} {trt.__version__}"
    try:
        return read_log(lines, engine, builder=builder, gpu=spec.gpu, profiles=profiles)
    except ValueError as error:
        raise AdaptrtError(
            f"the plan of the engine for {spec.gpu or 'this GPU'}: {error}; {builder} may write "
            "its log in another way than 1.7.1, which this version reads"
        ) from error


def _inspected_plans(
    trt: Any, logger: Any, engine: memoryview, profiles: int, spec: EngineSpec
) -> tuple[Plan, ...]:
    """Full TensorRT's plans; none, with a warning, where they cannot be read.

    What its inspector writes has never been seen here: an engine is not refused for that.
    """
    builder = f"{trt.__name__} {trt.__version__}"
    try:
        text = inspected(trt, logger, engine)
        return read_information(text, engine, builder=builder, gpu=spec.gpu, profiles=profiles)
    except ValueError as error:
        log.warning("warning: no rule of the plan was checked: %s says %s", builder, error)
        return ()


def _configure(trt: Any, builder: Any, network: Any, spec: EngineSpec) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, spec.workspace)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the builder prints its plan
    described = {tensor.name: tensor for tensor in spec.inputs}
    for shapes in engine_profiles(spec.profiles, spec.limits):
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            name = network.get_input(index).name
            profile.set_shape(name, *described[name].shapes_in(shapes))
        if config.add_optimization_profile(profile) < 0:
            raise AdaptrtError(f"TensorRT refused the optimisation profile {shapes}")
    # On by default, and FP32 products would have ten bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    if spec.refittable:
        config.set_flag(trt.BuilderFlag.REFIT)
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
    if spec.gpu is not None:
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(getattr(trt.ComputeCapability, spec.gpu.upper()), 0):
            raise AdaptrtError(f"TensorRT-RTX refused the architecture {spec.gpu}")
    if spec.timing_cache is not None:  # RTX ahead-of-time builds run no kernel, so time nothing
        known = spec.timing_cache.read_bytes() if spec.timing_cache.is_file() else b""
        cache = config.create_timing_cache(known)
        if not config.set_timing_cache(cache, ignore_mismatch=False):
            # Another TensorRT or GPU wrote it; a cache only saves time, so it begins anew.
            config.set_timing_cache(config.create_timing_cache(b""), False)
    return config


def _parse_errors(parser: Any) -> str:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    return "; ".join(f"node {e.node_name()} ({e.node_operator()}): {e.desc()}" for e in errors)


def make_monitor(trt: Any, bar: Any) -> Any:
    """A progress monitor that moves ``bar``; Ctrl-C ends the build at its next step.

    An exception would be lost in TensorRT's code that calls these methods, so an interrupt is
    kept in ``interrupted`` and answered by cancelling; the caller raises it again.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.interrupted: KeyboardInterrupt | None = None

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            with self._kept():
                bar.total += steps
                bar.set_postfix_str(name)

        def step_complete(self, name: str, step: int) -> bool:
            with self._kept():
                bar.update(1)
            return self.interrupted is None

        def phase_finish(self, name: str) -> None:
            with self._kept():
                bar.refresh()

        @contextmanager
        def _kept(self) -> Iterator[None]:
            try:
                yield
            except KeyboardInterrupt as interrupt:
                self.interrupted = interrupt

    return Monitor()
