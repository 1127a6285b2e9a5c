"""Executors: what can run a bundle, one row each, and the one place that opens them.

An executor is a library on a device together with the graph it runs, or the graph its engine was
built from. :func:`open_runtime` serves the embedder, the gate, ``verify`` and Triton's encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from runtimes.choices import (
    AdapterMode,
    Device,
    Embeddings,
    GraphKind,
    Precision,
    Target,
    parse_device,
)
from runtimes.errors import InputError, shown
from runtimes.executors.base import Runtime
from runtimes.executors.tensorrt.cuda import device_sm
from runtimes.heads import graph_inputs, head_of
from runtimes.manifest import Artifact, Manifest, require_as_built
from runtimes.schemes import SCHEMES, openvino_products
from runtimes.tables import TABLES

CPU_EXECUTOR = "onnxruntime"  # the one that every bundle has a graph for


@dataclass(frozen=True, kw_only=True)
class OpenOptions:
    """How an executor is opened, beyond what the bundle says.

    ``threads`` are those on a CPU (None: one per core), which go on ``spinning``
    between calls or not. ``adapter`` is the file that fills a slot. ``ordinal`` is the GPU's, as
    CUDA counts those that this process sees.
    """

    threads: int | None = None
    adapter: Path | None = None
    spinning: bool = True
    ordinal: int = 0


# Opens a bundle's graph or engine as it stands, without the head's contract.
Opener = Callable[[Path, Manifest, OpenOptions], Runtime]


@dataclass(frozen=True, kw_only=True)
class Executor:
    """One row. ``graph`` is what it runs, or what its engine was built from.

    It opens bundles of ``precisions`` and ``embeddings``, on ``device`` and no other. One that
    ``fills_slots`` takes an adapter file. One that ``judges`` is compared with the reference in the
    gate and by ``verify``, of bundles for ``judged_targets``, under its ``label`` (by default its
    name); of those for the targets that it ``speaks_for`` it comes first, and the manifest has its
    figures.
    One that runs the ``engine`` of a flavour judges where the GPU is that an engine was built for.
    An executor that is not ``offered`` exists for the gate.
    """

    name: str
    graph: GraphKind
    opener: Opener
    device: Device = Device.CPU
    engine: Target | None = None
    fills_slots: bool = False
    precisions: Collection[Precision] = tuple(Precision)
    embeddings: Collection[Embeddings] = tuple(Embeddings)
    judges: bool = False
    judged_targets: Collection[Target] = tuple(Target)
    speaks_for: Collection[Target] = ()
    label: str = ""
    offered: bool = True

    @property
    def report_label(self) -> str:
        """What the gate's reports of it are called."""
        return self.label or self.name


def _onnxruntime(
    folder: Path,
    manifest: Manifest,
    options: OpenOptions,
    *,
    graph: GraphKind,
    device: Device = Device.CPU,
) -> Runtime:
    from runtimes.executors.ort import OrtRuntime

    adapter = options.adapter
    if adapter is not None:
        from runtimes.executors.adapter_file import check_adapter

        adapter = check_adapter(adapter, manifest)
    return OrtRuntime(
        require_as_built(folder, manifest.artifact(graph)),
        device=device,
        ordinal=options.ordinal,
        threads=options.threads,
        adapter=adapter,
        tasks=counted_tasks(manifest),
        spinning=options.spinning,
        integer_products=SCHEMES[manifest.precision].integer_products,
        outputs=(head_of(manifest.interface, manifest.head).output.name,),
    )


def _openvino(folder: Path, manifest: Manifest, options: OpenOptions) -> Runtime:
    from runtimes.executors.openvino_cpu import OpenVinoRuntime

    if manifest.target.name is not Target.OPENVINO:
        raise InputError(
            f"runtime: openvino runs bundles that were compared in it, this one is for "
            f"{manifest.target.name}; build one with TARGET=openvino, or use runtime='onnxruntime'"
        )
    return OpenVinoRuntime(
        require_as_built(folder, manifest.artifact(GraphKind.OPENVINO)),
        products=openvino_products(manifest.precision, manifest.rest),
        inputs=graph_inputs(manifest.adapter, manifest.interface, manifest.head),
        output=head_of(manifest.interface, manifest.head).output.name,
        max_tokens=manifest.max_tokens,
        integer_products=SCHEMES[manifest.precision].integer_products,
        threads=options.threads,
        tasks=counted_tasks(manifest),
    )


def _engine(folder: Path, manifest: Manifest, options: OpenOptions, *, flavour: Target) -> Runtime:
    from runtimes.executors.tensorrt.runtime import open_engine

    return open_engine(
        folder,
        manifest,
        flavour,
        graph_inputs(manifest.adapter, manifest.interface, manifest.head),
        (head_of(manifest.interface, manifest.head).output,),
        counted_tasks(manifest),
        ordinal=options.ordinal,
    )


# ONNX Runtime's CPU kernels have no BF16; its own CPU graph is FP32 there.
_ON_CPU = tuple(p for p, scheme in SCHEMES.items() if scheme.runs_on_cpu)
# Its CUDA provider has no INT8 products: it would dequantise every weight in every call.
_ON_ORT_CUDA = tuple(p for p, scheme in SCHEMES.items() if scheme.storage is None)
_IN_OPENVINO = tuple(p for p, scheme in SCHEMES.items() if Target.OPENVINO in scheme.targets)
# A graph that no target of the precision runs: what reads it knows no blocks.
_PRIMITIVE = tuple(p for p in _ON_CPU if not SCHEMES[p].weight_only)
# What the parser of TensorRT 10.3 reads.
_PRIMITIVE_TABLES = tuple(e for e, table in TABLES.items() if Target.TENSORRT10 in table.targets)
_ENGINE_TARGETS = (Target.TENSORRT_RTX, Target.TENSORRT)

EXECUTORS: dict[str, Executor] = {
    row.name: row
    for row in (
        Executor(
            name=CPU_EXECUTOR,
            graph=GraphKind.ONNXRUNTIME,
            opener=partial(_onnxruntime, graph=GraphKind.ONNXRUNTIME),
            fills_slots=True,
            judges=True,
            speaks_for=(Target.ONNXRUNTIME,),
        ),
        Executor(
            name="openvino",
            graph=GraphKind.OPENVINO,
            opener=_openvino,
            precisions=_IN_OPENVINO,
            judges=True,
            judged_targets=(Target.OPENVINO,),
            speaks_for=(Target.OPENVINO,),
        ),
        Executor(
            name="onnxruntime_cuda",
            graph=GraphKind.ONNXRUNTIME_CUDA,
            opener=partial(_onnxruntime, graph=GraphKind.ONNXRUNTIME_CUDA, device=Device.CUDA),
            device=Device.CUDA,
            fills_slots=True,
            precisions=_ON_ORT_CUDA,
        ),
        Executor(
            name="tensorrt_rtx",
            graph=GraphKind.TENSORRT,
            opener=partial(_engine, flavour=Target.TENSORRT_RTX),
            device=Device.CUDA,
            engine=Target.TENSORRT_RTX,
            judges=True,
            judged_targets=(Target.TENSORRT_RTX,),
        ),
        Executor(
            name="tensorrt",
            graph=GraphKind.TENSORRT,
            opener=partial(_engine, flavour=Target.TENSORRT),
            device=Device.CUDA,
            engine=Target.TENSORRT,
            judges=True,
            judged_targets=(Target.TENSORRT, Target.TENSORRT10),
        ),
        # Without a GPU the portable graph, the very types of the engine, speaks for it.
        Executor(
            name="portable",
            graph=GraphKind.PORTABLE,
            opener=partial(_onnxruntime, graph=GraphKind.PORTABLE),
            precisions=_ON_CPU,
            judges=True,
            speaks_for=_ENGINE_TARGETS,
            offered=False,
        ),
        Executor(
            name="primitive",
            graph=GraphKind.PRIMITIVE,
            opener=partial(_onnxruntime, graph=GraphKind.PRIMITIVE),
            precisions=_PRIMITIVE,
            embeddings=_PRIMITIVE_TABLES,
            judges=True,
            judged_targets=(Target.TENSORRT10,),
            speaks_for=(Target.TENSORRT10,),
            offered=False,
        ),
    )
}


def find_executor(name: object, *more: str) -> Executor:
    """The row of a name; :class:`InputError` for any other value.

    ``more`` are names that the caller handles itself.
    """
    if not isinstance(name, str) or name not in EXECUTORS:
        known = ", ".join([*more, *(row.name for row in EXECUTORS.values() if row.offered)])
        raise InputError(f"runtime: got {shown(name)}, expected one of {known}")
    return EXECUTORS[name]


def open_runtime(
    folder: Path,
    manifest: Manifest,
    name: str | Executor,
    *,
    device: str | None = None,
    threads: int | None = None,
    adapter: Path | None = None,
    spinning: bool = True,
) -> Runtime:
    """The runtime of a bundle by one executor, with the contract of the bundle's head.

    ``name`` is that of a row of :data:`EXECUTORS`, or a row. ``device`` None is the executor's
    own, the first GPU of several; ``cuda:1`` is the second, and another kind than the executor's
    is refused. Nothing is replaced by anything else: raises
    :class:`InputError` for a bundle without what the executor runs, and
    :class:`~runtimes.errors.MissingError` where the device or a library is not there.
    """
    executor = name if isinstance(name, Executor) else find_executor(name)
    kind, ordinal = (executor.device, 0) if device is None else parse_device(device)
    if kind is not executor.device:
        fitting = [e.name for e in EXECUTORS.values() if e.offered and e.device is kind]
        hint = f"for {device} take runtime {' or '.join(fitting)}" if fitting else "leave it out"
        raise InputError(
            f"device: got {shown(device)}, but runtime {executor.name} runs on "
            f"{executor.device}; {hint}"
        )
    if manifest.precision not in executor.precisions:
        raise InputError(
            f"runtime: {executor.name} does not run a bundle in {manifest.precision}, only in "
            f"{', '.join(executor.precisions)}"
        )
    if adapter is not None and not executor.fills_slots:
        raise InputError("adapter: engines have no slot; use runtime='onnxruntime'")
    options = OpenOptions(threads=threads, adapter=adapter, spinning=spinning, ordinal=ordinal)
    runtime = executor.opener(folder, manifest, options)
    head = head_of(manifest.interface, manifest.head)
    return head.apply(runtime)


def judging_executors(
    manifest: Manifest, executors: Mapping[str, Executor] | None = None
) -> tuple[Executor, ...]:
    """The rows by which a bundle is judged here, the one that speaks for its target first.

    Of every row that judges: those whose graph the bundle holds in a precision they can run, and
    those that run its engine for the GPU of this machine. ``executors`` None are those of
    :data:`EXECUTORS`.
    """
    target, precision = manifest.target.name, manifest.precision
    rows = [
        row
        for row in (EXECUTORS if executors is None else executors).values()
        if row.judges
        and precision in row.precisions
        and target in row.judged_targets
        and judged_file(row, manifest) is not None
    ]
    return tuple(sorted(rows, key=lambda row: target not in row.speaks_for))


def cpu_executor(manifest: Manifest) -> Executor:
    """What runs a bundle on a CPU when nothing is said: the row that speaks for its target there.

    An engine's bundle has the graph for ONNX Runtime besides.
    """
    target = manifest.target.name
    rows = (e for e in EXECUTORS.values() if e.offered and e.device is Device.CPU)
    return next((e for e in rows if target in e.speaks_for), EXECUTORS[CPU_EXECUTOR])


def judged_file(executor: Executor, manifest: Manifest) -> Artifact | None:
    """The graph, or the engine for the GPU present, that an executor runs; None without one."""
    if executor.engine is not None:
        sm = device_sm()
        return next((e for e in manifest.engines(executor.engine) if e.gpu == sm), None)
    graphs = (e for e in manifest.artifacts if e.kind == executor.graph and e.gpu is None)
    return next(graphs, None)


def counted_tasks(manifest: Manifest) -> tuple[str, ...]:
    """The tasks that ``task_id`` counts; none where the graph takes no such input."""
    return tuple(manifest.tasks) if manifest.adapter is AdapterMode.SWITCHABLE else ()
