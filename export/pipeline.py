"""The stages in order: checkpoint → plan → graph → weights → engines → parity → bundle."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import onnx_ir as ir

from export.bundle import staging, write_json
from export.checkpoint import Checkpoint, open_checkpoint
from export.device_files import DEVICE_FILES, write_device_files
from export.engine import EngineSpec, build_engine, check_gpus
from export.engine_profiles import engine_profiles
from export.gate import PARITY_FILE, REFERENCE_FILE, Gate, Verdict
from export.lowering import Kind, lower
from export.plan import BundlePlan, plan_bundle
from export.refit import EngineSource
from export.source import Source, resolve
from export.spec import AdapterMode, BuildSpec, Interface, Precision, Target
from export.trace import PortableGraph, trace
from export.weights import SHARED_FILE, WEIGHT_FILE, CastReport, write_weights
from runtimes.cuda import device_sm
from runtimes.errors import InputError, MissingError
from runtimes.files import read_json, sha256
from runtimes.manifest import FILE, SCHEMA, Artifact, Manifest, make_artifact
from runtimes.tokens import TextTokenizer
from runtimes.trt_library import load_tensorrt

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
    engines: EngineSource | None  # taken over instead of built


def open_build(spec: BuildSpec, engines: EngineSource | None = None) -> Opened:
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
    engine_profiles(spec.profiles, spec.limits)
    trt = None
    if spec.target.builds_here and engines is None:
        trt = load_tensorrt(spec.target)
        if spec.target is Target.TENSORRT_RTX:
            check_gpus(trt, spec.gpus)
        if spec.refittable and device_sm() is None:
            raise MissingError(
                "--refittable: TensorRT compiles the code that puts weights in on a GPU, and no "
                "NVIDIA GPU is visible; build it where one is, then `adaptrt refit` needs none"
            )
    return Opened(spec, source, checkpoint, tokenizer, _checkpoint_sha256(checkpoint), trt, engines)


def build_bundles(
    spec: BuildSpec, tasks: tuple[str, ...] | None, engines: EngineSource | None = None
) -> Iterator[tuple[Path, Manifest]]:
    """Build one bundle per task (``None``: every adapter there is), or one switchable for all.

    The merged bundles of several tasks share one copy of the tensors no adapter changes, and of
    the engines where those are built without weights. ``engines`` takes them from another bundle.
    """
    opened = open_build(spec, engines)
    if spec.adapter is AdapterMode.SWITCHABLE:
        tasks = (spec.task,)
    tasks = tasks or opened.checkpoint.tasks
    shared = engines.shared if engines else None
    share = len(tasks) > 1 or shared is not None
    for index, task in enumerate(tasks):
        plan = plan_bundle(spec, opened.checkpoint, task, shared=share)
        folder, manifest = _build(opened, plan, index, shared)
        yield folder, manifest
        shared = folder / SHARED_FILE if (folder / SHARED_FILE).is_file() else None
        if spec.refittable:
            opened = replace(opened, engines=EngineSource(folder, manifest))


def _build(
    opened: Opened, plan: BundlePlan, index: int, shared: Path | None
) -> tuple[Path, Manifest]:
    spec = opened.spec
    final = spec.out / opened.checkpoint.name / plan.name
    with staging(final) as folder:
        inner = folder / OFFICIAL_FOLDER if plan.form.interface is Interface.OFFICIAL else folder
        inner.mkdir(exist_ok=True)
        files = _graph_files(plan, spec.target)
        graph = _write_graphs(folder, files, opened, plan)
        _copy_tokenizer(folder, opened, plan)
        cast = write_weights(inner, graph.slots, plan.contents, spec.limits.max_tokens, shared)
        _warn_flushed(cast, spec.precision)
        # Engines first: they take seconds and can fail, the gate takes minutes.
        memory = _make_engines(folder, files, opened)
        if spec.target is Target.TENSORRT10:
            write_device_files(folder)
        verdict = Gate(
            folder, files, spec, plan, opened.checkpoint, opened.tokenizer, graph, index
        ).run()
        manifest = _manifest(folder, files, opened, plan, verdict, cast, memory)
        write_json(folder / FILE, manifest.to_json())
    return final, manifest


def _make_engines(
    folder: Path, files: dict[Kind, str], opened: Opened
) -> dict[str, tuple[int, ...] | None]:
    """Build the engines, or take over those of another bundle; the memory of their profiles."""
    spec = opened.spec
    if opened.engines is not None:
        return opened.engines.link(folder / files[Kind.TENSORRT], folder)
    memory = {}
    for gpu, name in _engine_names(spec):
        engine = EngineSpec(
            limits=spec.limits, gpu=gpu, workspace=int(spec.workspace_gib * 2**30),
            timing_cache=None if gpu else spec.out / ".cache" / f"{spec.target}.timing",
            profiles=spec.profiles, refittable=spec.refittable,
        )  # fmt: skip
        graph = folder / files[Kind.TENSORRT]
        memory[name] = build_engine(opened.trt, graph, folder / name, engine)
    return memory


def _graph_files(plan: BundlePlan, target: Target) -> dict[Kind, str]:
    if plan.form.interface is Interface.OFFICIAL:
        return {Kind.ONNXRUNTIME: f"{OFFICIAL_FOLDER}/model.onnx"}
    if target is Target.TENSORRT10:
        return {kind: GRAPH_FILES[kind] for kind in (Kind.PRIMITIVE, Kind.ONNXRUNTIME)}
    return {kind: GRAPH_FILES[kind] for kind in plan.kinds}


def _write_graphs(
    folder: Path, files: dict[Kind, str], opened: Opened, plan: BundlePlan
) -> PortableGraph:
    limits = opened.spec.limits
    graph = trace(
        opened.checkpoint.config, opened.spec.precision.dtype,
        limits.max_batch, limits.max_tokens, plan.form,
    )  # fmt: skip
    for kind, name in files.items():
        proto = ir.to_proto(lower(graph.model(), kind))
        (folder / name).write_bytes(proto.SerializeToString(deterministic=True))
    return graph


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
    memory: Mapping[str, tuple[int, ...] | None],
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
        artifacts=tuple(_artifacts(folder, files, spec, memory)),
        parity=main.summary()
        | {"reference_bf16_min_cosine": verdict.noise, "flushed_weights": dict(cast.flushed)},
        versions=_versions(opened),
        profiles=(
            () if spec.target is Target.ONNXRUNTIME
            else engine_profiles(spec.profiles, spec.limits)
        ),
        head=spec.head.value,
    )  # fmt: skip


def _artifacts(
    folder: Path,
    files: dict[Kind, str],
    spec: BuildSpec,
    memory: Mapping[str, tuple[int, ...] | None],
) -> Iterator[Artifact]:
    precision = spec.precision.value
    for kind, name in files.items():
        yield make_artifact(folder, name, kind.value, precision=precision)
    for gpu, name in _engine_names(spec):
        engine = make_artifact(
            folder, name, spec.target.value, precision=precision, gpu=gpu or spec.gpus[0]
        )
        yield replace(engine, stripped=spec.refittable, memory=memory[name])
    for name in DEVICE_FILES:
        if (folder / name).is_file():
            yield make_artifact(folder, name, "device")
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


def _versions(opened: Opened) -> dict[str, str]:
    packages = ("adaptrt", "torch", "transformers", "peft", "onnx", "onnxruntime")
    found = {name: _version(name) for name in packages}
    if (trt := opened.trt) is not None:
        found["tensorrt"] = f"{trt.__name__} {trt.__version__}"
    elif opened.engines is not None:
        found["tensorrt"] = opened.engines.manifest.versions["tensorrt"]
    return found


def _version(package: str) -> str:
    """A bare checkout, which no package manager knows, runs too."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _checkpoint_sha256(checkpoint: Checkpoint) -> str:
    """SHA-256 of the weights; of several shards (or with an own adapter), of their hashes."""
    paths = sorted({checkpoint.files.path(name) for name in checkpoint.files.names})
    if checkpoint.adapter_path is not None:
        paths += sorted(checkpoint.adapter_path.glob("adapter_model*.safetensors"))
    hashes = [sha256(path) for path in paths]
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
