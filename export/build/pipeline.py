"""The stages in order: checkpoint → plan → graph → weights → engines → parity → bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from calibration.table import Calibration
from export.build.inputs import BuildInputs
from export.build.manifest import draft_manifest, final_manifest
from export.bundle.plan import BundlePlan, engine_names, plan_bundle
from export.bundle.replacing import require_replaceable
from export.bundle.staging import staging, write_json
from export.console.progress import log, stage
from export.engines.builder import EngineSpec, build_engine
from export.engines.device_files import write_device_files
from export.engines.reuse import EngineSource
from export.gate.gate import Gate
from export.gate.judge import Verdict
from export.graph.gemms import gemm_modules
from export.graph.insert_qdq import quantise_graph
from export.graph.precision_plan import PrecisionPlan
from export.graph.trace import PortableGraph, trace
from export.graph.weights import CastReport, write_weights
from export.lowering.pipelines import lower
from export.quantisation.calibrate import Subject, calibration_of
from export.quantisation.fallback import until_it_passes
from export.quantisation.summary import quantisation_figures, write_files
from export.report.figures import ReportData
from runtimes.bundle_files import (
    GRAPH_FILES,
    MANIFEST_FILE,
    OFFICIAL_FOLDER,
    SHARED_FILE,
    TOKENIZER_FILE,
    TOKENIZER_FILES,
)
from runtimes.choices import AdapterMode, GraphKind, Interface, Precision, Target
from runtimes.files import read_json
from runtimes.manifest import Manifest, Parity


@dataclass(frozen=True)
class Attempt:
    """A staged bundle that passed its gate; engines' ``memory`` by file, a number per profile."""

    verdict: Verdict
    cast: CastReport
    memory: Mapping[str, tuple[int, ...] | None]


def build_bundles(
    inputs: BuildInputs, tasks: tuple[str, ...] | None
) -> Iterator[tuple[Path, Manifest]]:
    """Build one bundle per task (``None``: every adapter there is), or one switchable for all.

    The merged bundles of several tasks share one copy of the tensors no adapter changes, and of
    the engines where those are built without weights.
    """
    spec, engines = inputs.spec, inputs.engines
    if spec.adapter is AdapterMode.SWITCHABLE:
        tasks = (spec.task,)
    tasks = tasks or inputs.checkpoint.tasks
    shared = engines.shared if engines else None
    share = len(tasks) > 1 or shared is not None
    plans = [plan_bundle(spec, inputs.checkpoint, task, shared=share) for task in tasks]
    for plan in plans:
        _check_places(inputs, plan)
    for index, plan in enumerate(plans):
        folder, manifest = _build(inputs, plan, index, shared)
        yield folder, manifest
        shared = folder / SHARED_FILE if (folder / SHARED_FILE).is_file() else None
        if spec.refittable:
            inputs = replace(inputs, engines=EngineSource(folder, manifest))


def _build(
    inputs: BuildInputs, plan: BundlePlan, index: int, shared: Path | None
) -> tuple[Path, Manifest]:
    spec = inputs.spec
    final = _final(inputs, plan)
    calibration = _calibration(inputs, plan) if spec.scheme.needs_calibration else None
    with staging(final, lambda place: require_replaceable(place, spec, plan)) as folder:
        inner = folder / OFFICIAL_FOLDER if plan.form.interface is Interface.OFFICIAL else folder
        inner.mkdir(exist_ok=True)
        files = _graph_files(plan, spec.target)
        _copy_tokenizer(folder, inputs, plan)
        if spec.target is Target.TENSORRT10:
            write_device_files(folder)
        gate = Gate(folder, files, spec, plan, inputs.checkpoint, inputs.tokenizer, index)
        with stage("trace"):
            graph = _trace(inputs, plan)

        def attempt(graph: PortableGraph, precision: PrecisionPlan | None) -> Attempt:
            with stage("graphs and weights"):
                _write_graphs(folder, files, graph)
                contents = replace(plan.contents, plan=precision)
                cast = write_weights(inner, graph.slots, contents, spec.limits.max_tokens, shared)
            # Engines first: they take seconds and can fail, the gate takes minutes.
            memory = _make_engines(folder, files, inputs, plan)
            return Attempt(gate.run(graph), cast, memory)

        quantisation = None
        if calibration is None:
            made = attempt(graph, None)
            gate.write(made.verdict)
        else:
            modules = gemm_modules(inputs.checkpoint.config)
            tried, made = until_it_passes(
                lambda tried: attempt(quantise_graph(graph, tried), tried),
                calibration,
                modules,
                spec.scheme,
                spec.dtype,
                spec.calibration.fallback_max,
            )
            figures = quantisation_figures(tried, calibration, modules, made.verdict.retrieval)
            gate.write(made.verdict, quantisation=figures.to_json())
            data = ReportData(
                model=inputs.source.name,
                task=", ".join(plan.tasks),
                target=spec.target,
                adapter=spec.adapter,
                reports=made.verdict.reports,
                quantisation=figures,
            )
            write_files(folder, data, calibration)
            quantisation = figures.summary
        _warn_flushed(made.cast, spec.precision)
        with stage("hashes"):
            parity = Parity(
                **next(iter(made.verdict.reports.values())).summary(),
                reference_bf16_min_cosine=made.verdict.noise,
                flushed_weights=dict(made.cast.flushed),
            )
            draft = draft_manifest(folder, files, inputs, plan)
            manifest = final_manifest(draft, folder, spec, made.memory, parity, quantisation)
        write_json(folder / MANIFEST_FILE, manifest.to_json())
    return final, manifest


def _final(inputs: BuildInputs, plan: BundlePlan) -> Path:
    return inputs.spec.out / inputs.checkpoint.name / plan.name


def _check_places(inputs: BuildInputs, plan: BundlePlan) -> None:
    """Before the work: nothing may be in the way of what it will write."""
    require_replaceable(_final(inputs, plan), inputs.spec, plan)
    if inputs.spec.scheme.needs_calibration:
        _subject(inputs, plan).former()


def _make_engines(
    folder: Path, files: dict[GraphKind, str], inputs: BuildInputs, plan: BundlePlan
) -> dict[str, tuple[int, ...] | None]:
    """Build the engines, or take over those of another bundle; the memory of their profiles."""
    spec = inputs.spec
    if inputs.engines is not None:
        return inputs.engines.link(folder / files[GraphKind.TENSORRT], folder)
    memory = {}
    for gpu, name in engine_names(spec):
        engine = EngineSpec(
            limits=spec.limits,
            gpu=gpu,
            workspace=int(spec.workspace_gib * 2**30),
            inputs=plan.form.inputs,
            timing_cache=None if gpu else spec.out / ".cache" / f"{spec.target}.timing",
            profiles=spec.profiles,
            refittable=spec.refittable,
        )
        graph = folder / files[GraphKind.TENSORRT]
        with stage(f"engine {gpu or spec.gpus[0]}"):
            memory[name] = build_engine(inputs.trt, graph, folder / name, engine)
    return memory


def calibrate_bundles(
    inputs: BuildInputs, tasks: tuple[str, ...] | None
) -> Iterator[tuple[Path, Calibration, bool]]:
    """The calibration of every bundle that :func:`build_bundles` would build.

    Gives its file, its contents, and whether it was there already.
    """
    spec = inputs.spec
    if spec.adapter is AdapterMode.SWITCHABLE:
        tasks = (spec.task,)
    subjects = [
        _subject(inputs, plan_bundle(spec, inputs.checkpoint, task, shared=False))
        for task in tasks or inputs.checkpoint.tasks
    ]
    for subject in subjects:
        subject.former()
    for subject in subjects:
        yield subject.path, *calibration_of(subject)


def _subject(inputs: BuildInputs, plan: BundlePlan) -> Subject:
    return Subject(inputs.spec, inputs.checkpoint, inputs.sha256, inputs.tokenizer, plan)


def _calibration(inputs: BuildInputs, plan: BundlePlan) -> Calibration:
    subject = _subject(inputs, plan)
    calibration, reused = calibration_of(subject)
    log.info("calibration: %s%s", subject.path, " (reused)" if reused else "")
    return calibration


def _graph_files(plan: BundlePlan, target: Target) -> dict[GraphKind, str]:
    if plan.form.interface is Interface.OFFICIAL:
        return {GraphKind.ONNXRUNTIME: f"{OFFICIAL_FOLDER}/model.onnx"}
    if target is Target.TENSORRT10:
        return {kind: GRAPH_FILES[kind] for kind in (GraphKind.PRIMITIVE, GraphKind.ONNXRUNTIME)}
    return {kind: GRAPH_FILES[kind] for kind in plan.kinds}


def _trace(inputs: BuildInputs, plan: BundlePlan) -> PortableGraph:
    config, limits = inputs.checkpoint.config, inputs.spec.limits
    return trace(config, inputs.spec.dtype, limits.max_batch, limits.max_tokens, plan.form)


def _write_graphs(folder: Path, files: dict[GraphKind, str], graph: PortableGraph) -> None:
    for kind, name in files.items():
        proto = ir.to_proto(lower(graph.model(), kind))
        (folder / name).write_bytes(proto.SerializeToString(deterministic=True))


def _copy_tokenizer(folder: Path, inputs: BuildInputs, plan: BundlePlan) -> None:
    for name in (TOKENIZER_FILE, *TOKENIZER_FILES):
        if (inputs.source.folder / name).is_file():
            shutil.copyfile(inputs.source.folder / name, folder / name)
    path = folder / "tokenizer_config.json"
    if plan.form.interface is Interface.OFFICIAL and path.is_file():
        # Clients take the smaller of these two for their limit; only one is the model's.
        config = read_json(path) | {"model_max_length": inputs.spec.limits.max_tokens}
        config.pop("max_length", None)
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _warn_flushed(cast: CastReport, precision: Precision) -> None:
    for name, share in cast.flushed.items():
        log.warning(
            "warning: %s: %.1f%% of its values are too small for %s and became zero",
            name,
            100 * share,
            precision,
        )
