"""What a build writes into the staging folder: tokenizer, graphs, weights and engines."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, ModuleType

import onnx_ir as ir

from export.bundle.hub_files import write_hub_files
from export.bundle.plan import BundlePlan, engine_names
from export.bundle.tokenizer_files import write_tokenizer
from export.console.progress import stage
from export.engines.builder import BuiltEngine, EngineSpec, build_engine
from export.engines.checks import check_engines
from export.engines.plan_file import Plans, write_plans
from export.engines.reuse import EngineSource
from export.gate.traced import TRACED
from export.graph.precision_plan import PrecisionPlan
from export.graph.trace import PortableGraph
from export.graph.weights import CastReport, Contents, write_weights
from export.lowering.pipelines import lower
from export.spec import BuildSpec
from runtimes.bundle_files import (
    CONFIG_FILE,
    OPENVINO_FILE,
    OPENVINO_WEIGHTS,
    PLACES,
    WEIGHT_FILE,
)
from runtimes.choices import GraphKind, Interface, Layout, Target
from runtimes.manifest import Manifest
from runtimes.open import EXECUTORS
from runtimes.schemes import Storage
from runtimes.tensors import Tensor


@dataclass(frozen=True, kw_only=True)
class StagedBundle:
    """A bundle that is being written into ``folder``, and the draft of its manifest.

    ``files`` are its graphs' names, ``inputs`` what they take; ``shared`` the tensors it has in
    common with another bundle.
    """

    folder: Path
    files: Mapping[GraphKind, str]
    inputs: tuple[Tensor, ...]
    contents: Contents
    max_tokens: int
    shared: Path | None
    draft: Manifest
    check_weights: Callable[[int], None] = lambda size: None  # bytes of the weights in files

    @property
    def graph_folder(self) -> Path:
        """Where the graphs and their weights are."""
        return (self.folder / self.files[GraphKind.ONNXRUNTIME]).parent


# Of targets whose bundles hold no others: the graph that it is for, and the one for any CPU.
_KINDS = {
    Target.TENSORRT10: (GraphKind.PRIMITIVE, GraphKind.ONNXRUNTIME),
    Target.OPENVINO: (GraphKind.OPENVINO, GraphKind.ONNXRUNTIME),
}


def graph_files(plan: BundlePlan, spec: BuildSpec) -> dict[GraphKind, str]:
    """The paths of a bundle's graphs, but for those that nothing runs in its precision."""
    official = plan.form.interface is Interface.OFFICIAL  # whose clients look where the hub's do
    places = PLACES[Layout.HUB if official else spec.layout]
    rows = (*EXECUTORS.values(), *TRACED.values())
    run = {
        row.graph
        for row in rows
        if spec.precision in row.precisions and spec.embeddings in row.embeddings
    }
    kinds: tuple[GraphKind, ...] = tuple(kind for kind in plan.kinds if kind in run)
    kinds = _KINDS.get(spec.target, kinds)
    return {kind: places.path(kind) for kind in kinds}


def write_client_files(folder: Path, source: Path, draft: Manifest, graph: PortableGraph) -> None:
    """The tokenizer, and what other programs read of the bundle; ``source`` is the checkpoint."""
    write_tokenizer(folder, source, draft.max_tokens)
    if draft.layout is Layout.HUB:
        write_hub_files(folder, source, draft, len({slot.file for slot in graph.slots}))
    else:
        shutil.copyfile(source / CONFIG_FILE, folder / CONFIG_FILE)


def write_model(
    staged: StagedBundle, graph: PortableGraph, precision: PrecisionPlan | None = None
) -> CastReport:
    """Write every lowered graph and the weights, over those of an attempt before.

    ``precision`` says which matrices of ``graph`` are quantised; None: no scheme that does.
    """
    with stage("graphs and weights"):
        staged.graph_folder.mkdir(exist_ok=True)
        for kind, name in staged.files.items():
            if kind is not GraphKind.OPENVINO:
                accumulation = staged.draft.attention_accumulation
                _write_onnx(lower(graph.model(), kind, accumulation), staged.folder / name)
        contents = replace(staged.contents, plan=precision)
        cast = write_weights(
            staged.graph_folder, graph.slots, contents, staged.max_tokens, staged.shared
        )
        if GraphKind.OPENVINO in staged.files:
            _write_openvino(staged, graph)
        weights = staged.graph_folder.glob(f"{WEIGHT_FILE}*")
        staged.check_weights(sum(file.stat().st_size for file in weights))
        return cast


def _write_onnx(model: ir.Model, path: Path) -> None:
    path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def _write_openvino(staged: StagedBundle, graph: PortableGraph) -> None:
    """IR is made from an ONNX file beside its weights, which is there for that time only."""
    from export.lowering.openvino_ir import write_ir

    source = staged.graph_folder / "openvino.onnx"
    _write_onnx(lower(graph.model(), GraphKind.OPENVINO), source)
    xml, binary = staged.folder / OPENVINO_FILE, staged.folder / OPENVINO_WEIGHTS
    write_ir(source, graph.slots, staged.graph_folder / WEIGHT_FILE, xml, binary)
    source.unlink()


@dataclass(frozen=True, kw_only=True)
class Engines:
    """A bundle's engines: what the builder said, by file, and the plan's rules that they break."""

    built: Mapping[str, BuiltEngine]
    plan_waived: tuple[str, ...]

    @property
    def plans(self) -> Plans:
        """What each of them executes, by file."""
        return {name: engine.plans for name, engine in self.built.items()}


def make_engines(
    staged: StagedBundle,
    spec: BuildSpec,
    trt: ModuleType | None,
    former: EngineSource | None,
    quantised: Mapping[str, Storage] = MappingProxyType({}),
) -> Engines:
    """Build the engines, or take over the ``former`` bundle's; their plans are written down.

    ``quantised`` are the GEMMs that are stored quantised, and how. Raises
    :class:`runtimes.errors.GateError` where a plan breaks a rule without the user's leave.
    """
    if former is not None:
        graph = staged.folder / staged.files[GraphKind.TENSORRT]
        built = former.link(graph, staged.folder)
    else:
        built = _build_engines(staged, spec, trt)
    plans = {name: engine.plans for name, engine in built.items()}
    write_plans(staged.folder, plans)
    if former is not None:
        return Engines(built=built, plan_waived=former.manifest.plan_waived)
    if not plans:
        return Engines(built={}, plan_waived=())
    graph = staged.folder / staged.files[GraphKind.TENSORRT]
    waived = check_engines(plans, spec, staged.draft.architecture, graph, quantised)
    return Engines(built=built, plan_waived=waived)


def _build_engines(
    staged: StagedBundle, spec: BuildSpec, trt: ModuleType | None
) -> dict[str, BuiltEngine]:
    built = {}
    for gpu, name in engine_names(spec):
        engine = EngineSpec(
            limits=spec.limits,
            gpu=gpu,
            workspace=int(spec.workspace_gib * 2**30),
            inputs=staged.inputs,
            timing_cache=None if gpu else spec.out / ".cache" / f"{spec.target}.timing",
            profiles=spec.profiles,
            refittable=spec.refittable,
        )
        graph = staged.folder / staged.files[GraphKind.TENSORRT]
        with stage(f"engine {gpu or spec.gpus[0]}"):
            built[name] = build_engine(trt, graph, staged.folder / name, engine)
    return built
