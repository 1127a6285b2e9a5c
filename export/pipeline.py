"""The stages in order: checkpoint → plan → graph → weights → engines → parity → bundle."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx_ir as ir

from calibration.table import Calibration
from export.bundle import staging, write_json
from export.calibrate import Subject, calibration_of
from export.checkpoint import Checkpoint, open_checkpoint
from export.engine import EngineSpec, build_engine, check_gpus, load_tensorrt
from export.fallback import until_it_passes
from export.gate import PARITY_FILE, REFERENCE_FILE, Gate, Verdict
from export.gemms import gemm_modules
from export.int8_record import CALIBRATION_FILE, REPORT_FILE, details, summary, write_files
from export.lowering import Kind, lower
from export.plan import BundlePlan, plan_bundle
from export.precision_plan import PrecisionPlan
from export.qdq import quantise_graph
from export.source import Source, resolve
from export.spec import AdapterMode, BuildSpec, Interface, Precision, Target
from export.trace import PortableGraph, trace
from export.weights import SHARED_FILE, WEIGHT_FILE, CastReport, write_weights
from runtimes.errors import InputError
from runtimes.files import read_json, sha256
from runtimes.manifest import FILE, SCHEMA, Artifact, Manifest, make_artifact
from runtimes.tokens import TextTokenizer

GRAPH_FILES = {
    Kind.PORTABLE: "model.onnx",
    Kind.ONNXRUNTIME: "model.onnxruntime.onnx",
    Kind.ONNXRUNTIME_CUDA: "model.onnxruntime_cuda.onnx",
    Kind.TENSORRT: "model.tensorrt.onnx",
    Kind.PRIMITIVE: "model.primitive.onnx",
}
# Clients of the official file open this path beside tokenizer.json and config.json.
OFFICIAL_FOLDER = "onnx"
TOKENIZER = "tokenizer.json"
TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "config.json")
UNSTATED_LICENCE = "not stated; the published jina-embeddings-v3 weights are CC-BY-NC-4.0"


@dataclass(frozen=True)
class Opened:
    """What every bundle of one build shares."""

    spec: BuildSpec
    source: Source
    checkpoint: Checkpoint
    tokenizer: TextTokenizer
    sha256: str
    trt: ModuleType | None


def open_build(spec: BuildSpec) -> Opened:
    """Check everything that can be checked before work begins."""
    source = resolve(spec.model, spec.revision)
    checkpoint = open_checkpoint(
        source.folder,
        name=source.name,
        revision=source.revision,
        adapter_path=spec.adapter_path,
        adapter_task=spec.task,
    )
    if spec.limits.max_tokens > checkpoint.config.max_tokens:
        raise InputError(
            f"MAX_TOKENS: got {spec.limits.max_tokens}, the model's positions end at "
            f"{checkpoint.config.max_tokens}"
        )
    tokenizer = TextTokenizer(
        source.folder / TOKENIZER,
        max_tokens=spec.limits.max_tokens,
        pad_id=checkpoint.config.pad_id,
    )
    trt = None
    if spec.target is not Target.ONNXRUNTIME:
        trt = load_tensorrt(spec.target)
        if spec.target is Target.TENSORRT_RTX:
            check_gpus(trt, spec.gpus)
    return Opened(spec, source, checkpoint, tokenizer, _checkpoint_sha256(checkpoint), trt)


def build_bundles(
    spec: BuildSpec, tasks: tuple[str, ...] | None
) -> Iterator[tuple[Path, Manifest]]:
    """Build one bundle per task (``None``: every adapter there is), or one switchable for all.

    The merged bundles of several tasks share one copy of the tensors no adapter changes.
    """
    opened = open_build(spec)
    if spec.adapter is AdapterMode.SWITCHABLE:
        tasks = (spec.task,)
    tasks = tasks or opened.checkpoint.tasks
    shared: Path | None = None
    for index, task in enumerate(tasks):
        plan = plan_bundle(spec, opened.checkpoint, task, shared=len(tasks) > 1)
        folder, manifest = _build(opened, plan, index, shared)
        yield folder, manifest
        shared = folder / SHARED_FILE if (folder / SHARED_FILE).is_file() else None


def _build(
    opened: Opened, plan: BundlePlan, index: int, shared: Path | None
) -> tuple[Path, Manifest]:
    spec = opened.spec
    final = spec.out / opened.checkpoint.name / plan.name
    calibration = _calibration(opened, plan) if spec.precision is Precision.INT8 else None
    with staging(final) as folder:
        inner = folder / OFFICIAL_FOLDER if plan.form.interface is Interface.OFFICIAL else folder
        inner.mkdir(exist_ok=True)
        files = _graph_files(plan)
        _copy_tokenizer(folder, opened, plan)
        gate = Gate(folder, files, spec, plan, opened.checkpoint, opened.tokenizer, index)
        graph = _trace(opened, plan)

        def attempt(
            graph: PortableGraph, precision: PrecisionPlan | None
        ) -> tuple[Verdict, CastReport]:
            _write_graphs(folder, files, graph)
            contents = replace(plan.contents, plan=precision)
            cast = write_weights(inner, graph.slots, contents, spec.limits.max_tokens, shared)
            # Engines first: they take seconds and can fail, the gate takes minutes.
            _build_engines(opened, folder, files)
            return gate.run(graph), cast

        quantisation = None
        if calibration is None:
            verdict, cast = attempt(graph, None)
            gate.write(verdict)
        else:
            modules = gemm_modules(opened.checkpoint.config)
            tried, (verdict, cast) = until_it_passes(
                lambda tried: attempt(quantise_graph(graph, tried), tried),
                calibration, modules, spec.dtype, spec.calibration.fallback_max,
            )  # fmt: skip
            quantisation = summary(tried, calibration, modules)
            figures = details(tried, calibration, modules, verdict)
            gate.write(verdict, int8=figures)
            write_files(folder, _header(opened, plan), verdict, calibration, figures)
        _warn_flushed(cast, spec.precision)
        manifest = _manifest(folder, files, opened, plan, verdict, cast, quantisation)
        write_json(folder / FILE, manifest.to_json())
    return final, manifest


def _build_engines(opened: Opened, folder: Path, files: dict[Kind, str]) -> None:
    spec = opened.spec
    for gpu, name in _engine_names(spec):
        engine = EngineSpec(
            limits=spec.limits, gpu=gpu, workspace=int(spec.workspace_gib * 2**30),
            timing_cache=None if gpu else spec.out / ".cache" / f"{spec.target}.timing",
        )  # fmt: skip
        build_engine(opened.trt, folder / files[Kind.TENSORRT], folder / name, engine)


def calibrate_bundles(
    spec: BuildSpec, tasks: tuple[str, ...] | None
) -> Iterator[tuple[Path, Calibration, bool]]:
    """The calibration of every bundle that :func:`build_bundles` would build.

    Gives its file, its contents, and whether it was there already.
    """
    opened = open_build(spec)
    if spec.adapter is AdapterMode.SWITCHABLE:
        tasks = (spec.task,)
    for task in tasks or opened.checkpoint.tasks:
        subject = _subject(opened, plan_bundle(spec, opened.checkpoint, task, shared=False))
        yield subject.path, *calibration_of(subject)


def _subject(opened: Opened, plan: BundlePlan) -> Subject:
    return Subject(opened.spec, opened.checkpoint, opened.sha256, opened.tokenizer, plan)


def _calibration(opened: Opened, plan: BundlePlan) -> Calibration:
    subject = _subject(opened, plan)
    calibration, reused = calibration_of(subject)
    print(f"calibration: {subject.path}{' (reused)' if reused else ''}", file=sys.stderr)
    return calibration


def _header(opened: Opened, plan: BundlePlan) -> dict[str, Any]:
    """The report's."""
    spec = opened.spec
    return {
        "model": opened.source.name, "task": ", ".join(plan.tasks),
        "precision": spec.precision.value, "target": spec.target.value,
        "adapter": spec.adapter.value,
    }  # fmt: skip


def _graph_files(plan: BundlePlan) -> dict[Kind, str]:
    if plan.form.interface is Interface.OFFICIAL:
        return {Kind.ONNXRUNTIME: f"{OFFICIAL_FOLDER}/model.onnx"}
    return {kind: GRAPH_FILES[kind] for kind in plan.kinds}


def _trace(opened: Opened, plan: BundlePlan) -> PortableGraph:
    config, limits = opened.checkpoint.config, opened.spec.limits
    return trace(config, opened.spec.dtype, limits.max_batch, limits.max_tokens, plan.form)


def _write_graphs(folder: Path, files: dict[Kind, str], graph: PortableGraph) -> None:
    for kind, name in files.items():
        proto = ir.to_proto(lower(graph.model(), kind))
        (folder / name).write_bytes(proto.SerializeToString(deterministic=True))


def _copy_tokenizer(folder: Path, opened: Opened, plan: BundlePlan) -> None:
    for name in (TOKENIZER, *TOKENIZER_FILES):
        if (opened.source.folder / name).is_file():
            shutil.copyfile(opened.source.folder / name, folder / name)
    path = folder / "tokenizer_config.json"
    if plan.form.interface is Interface.OFFICIAL and path.is_file():
        # Clients take the smaller of these two for their limit; only one is the model's.
        config = read_json(path) | {"model_max_length": opened.spec.limits.max_tokens}
        config.pop("max_length", None)
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _engine_names(spec: BuildSpec) -> list[tuple[str | None, str]]:
    if spec.target is Target.TENSORRT_RTX:
        return [(gpu, f"encoder.{gpu}.engine") for gpu in spec.gpus]
    if spec.target is Target.TENSORRT:
        return [(None, f"encoder.{spec.gpus[0]}.engine")]
    return []


def _warn_flushed(cast: CastReport, precision: Precision) -> None:
    for name, share in cast.flushed.items():
        print(
            f"warning: {name}: {share:.1%} of its values are too small for {precision} "
            "and became zero", file=sys.stderr,
        )  # fmt: skip


def _manifest(
    folder: Path,
    files: dict[Kind, str],
    opened: Opened,
    plan: BundlePlan,
    verdict: Verdict,
    cast: CastReport,
    quantisation: dict[str, Any] | None,
) -> Manifest:
    spec, config = opened.spec, opened.checkpoint.config
    main = next(iter(verdict.reports.values()))
    task = plan.tasks[0] if len(plan.tasks) == 1 else "all"
    return Manifest(
        schema=SCHEMA,
        model={
            "name": opened.source.name,
            "format": opened.checkpoint.format,
            "revision": opened.source.revision,
            "sha256": opened.sha256,
            "licence": opened.source.licence or UNSTATED_LICENCE,
        },
        architecture=config.architecture(),
        task=task,
        tasks=plan.tasks,
        adapter=spec.adapter.value,
        slot_rank=spec.rank if spec.adapter is AdapterMode.SLOT else None,
        interface=spec.interface.value,
        precision=spec.precision.value,
        target={"name": spec.target.value, "requested": spec.requested_target},
        max_batch=spec.limits.max_batch,
        max_tokens=spec.limits.max_tokens,
        dimensions=config.dimensions,
        prefix=plan.prefixes.get(task, ""),
        prefixes=dict(plan.prefixes),
        pad_id=config.pad_id,
        artifacts=tuple(_artifacts(folder, files, spec)),
        parity=main.summary()
        | {"reference_bf16_min_cosine": verdict.noise, "flushed_weights": dict(cast.flushed)},
        versions=_versions(opened.trt),
        quantisation=quantisation,
    )


def _artifacts(folder: Path, files: dict[Kind, str], spec: BuildSpec) -> Iterator[Artifact]:
    precision = spec.precision.value
    for kind, name in files.items():
        yield make_artifact(folder, name, kind.value, precision=precision)
    for gpu, name in _engine_names(spec):
        yield make_artifact(
            folder, name, spec.target.value, precision=precision, gpu=gpu or spec.gpus[0]
        )
    for prefix in ("", f"{OFFICIAL_FOLDER}/"):
        for name in (WEIGHT_FILE, SHARED_FILE):
            if (folder / prefix / name).is_file():
                yield make_artifact(folder, prefix + name, "weights", precision=precision)
    yield make_artifact(folder, TOKENIZER, "tokenizer")
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            yield make_artifact(folder, name, "config")
    yield make_artifact(folder, REFERENCE_FILE, "reference")
    yield make_artifact(folder, PARITY_FILE, "parity")
    for name, label in ((CALIBRATION_FILE, "calibration"), (REPORT_FILE, "report")):
        if (folder / name).is_file():
            yield make_artifact(folder, name, label)


def _versions(trt: Any) -> dict[str, str]:
    packages = ("adaptrt", "torch", "transformers", "peft", "onnx", "onnxruntime")
    found = {name: version(name) for name in packages}
    return found | ({"tensorrt": f"{trt.__name__} {trt.__version__}"} if trt else {})


def _checkpoint_sha256(checkpoint: Checkpoint) -> str:
    """SHA-256 of the weights; of several shards (or with an own adapter), of their hashes."""
    paths = sorted({checkpoint.files.path(name) for name in checkpoint.files.names})
    if checkpoint.adapter_path is not None:
        paths += sorted(checkpoint.adapter_path.glob("adapter_model*.safetensors"))
    hashes = [sha256(path) for path in paths]
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
