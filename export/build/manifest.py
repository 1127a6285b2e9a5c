"""What a bundle's manifest says: its files, how they were made and how they compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from export.build.inputs import BuildInputs
from export.build.staged import Engines
from export.bundle.plan import BundlePlan, engine_names
from export.engines.builder import BuiltEngine
from export.engines.predicted_times import predicted_times
from export.engines.profiles import engine_profiles
from export.spec import BuildSpec
from runtimes.bundle_files import (
    CALIBRATION_FILE,
    CHUNKS_FILE,
    CLIENT_FILES,
    DEVICE_FILES,
    DEVICE_WHEEL,
    FINGERPRINT_FILE,
    OPENVINO_WEIGHTS,
    PARITY_FILE,
    PLACES,
    PLAN_FILE,
    REFERENCE_FILE,
    REPORT_FILE,
    SHARED_FILE,
    TOKENIZER_FILE,
    VOCABULARY_FILE,
    WEIGHT_FILE,
)
from runtimes.choices import ALL_TASKS, AdapterMode, FileKind, GraphKind
from runtimes.manifest import (
    SCHEMA,
    SCHEMA_MINOR,
    UNHASHED,
    Artifact,
    BuiltFor,
    Manifest,
    Model,
    Parity,
    Quantisation,
    make_artifact,
)


def draft_manifest(
    files: Mapping[GraphKind, str], inputs: BuildInputs, plan: BundlePlan
) -> Manifest:
    """What is known of a bundle before it is written: executors are opened by it.

    It names the graphs, without sizes and hashes; engines, reference and parity are not in it.
    """
    spec, config = inputs.spec, inputs.checkpoint.config
    task = plan.tasks[0] if len(plan.tasks) == 1 else ALL_TASKS
    return Manifest(
        schema=SCHEMA,
        schema_minor=SCHEMA_MINOR,
        model=Model(
            name=inputs.source.name,
            format=inputs.checkpoint.format,
            revision=inputs.source.revision,
            sha256=inputs.sha256,
            licence=inputs.source.licence or inputs.checkpoint.family.unstated_licence,
        ),
        architecture=config.architecture(),
        task=task,
        tasks=plan.tasks,
        adapter=spec.adapter,
        slot_rank=spec.rank if spec.adapter is AdapterMode.SLOT else None,
        interface=spec.interface,
        precision=spec.precision,
        target=BuiltFor(name=spec.target, requested=spec.requested_target),
        max_batch=spec.limits.max_batch,
        max_tokens=spec.limits.max_tokens,
        dimensions=config.dimensions,
        prefix=plan.prefixes.get(task, ""),
        prefixes=dict(plan.prefixes),
        pad_id=config.pad_id,
        artifacts=tuple(
            Artifact(path=name, kind=kind, bytes=0, sha256=UNHASHED, precision=spec.precision)
            for kind, name in files.items()
        ),
        versions=_versions(inputs),
        profiles=(engine_profiles(spec.profiles, spec.limits) if spec.target.runs_engine else ()),
        head=spec.head,
        layout=spec.layout,
        rest=spec.rest,
        embeddings=spec.embeddings,
        inputs=plan.form.inputs,
        attention_accumulation=spec.attention_accumulation if spec.target.builds_here else None,
    )


def final_manifest(
    draft: Manifest,
    folder: Path,
    spec: BuildSpec,
    engines: Engines,
    executed: Mapping[str, str],
    parity: Parity,
    quantisation: Quantisation | None,
) -> Manifest:
    """The manifest of a staged bundle that passed its gate: every file hashed.

    ``executed`` is what ran a file in the gate, ``parity`` how the graph that speaks for the
    target compared.
    """
    files = _artifacts(folder, draft.artifacts, spec, engines.built)
    return replace(
        draft,
        artifacts=tuple(replace(file, executed=executed.get(file.path)) for file in files),
        parity=parity,
        quantisation=quantisation,
        plan_waived=engines.plan_waived,
        predicted=predicted_times(engines.plans, draft),
    )


def draft_with_engines(draft: Manifest, folder: Path, spec: BuildSpec, gpu: str | None) -> Manifest:
    """The draft of a staged bundle with the engine for ``gpu`` in it, hashed, if it has one."""
    engines = [
        make_artifact(folder, name, spec.target, precision=spec.precision, gpu=gpu)
        for built_for, name in engine_names(spec)
        if (built_for or spec.gpus[0]) == gpu
    ]
    engines = [replace(engine, stripped=spec.refittable) for engine in engines]
    return replace(draft, artifacts=(*draft.artifacts, *engines))


def _weight_files(folder: Path) -> Iterator[str]:
    if (folder / OPENVINO_WEIGHTS).is_file():
        yield OPENVINO_WEIGHTS
    for place in PLACES.values():
        for name in (WEIGHT_FILE, SHARED_FILE):
            path = Path(place.folder, name)
            if (folder / path).is_file():
                yield path.as_posix()


def _artifacts(
    folder: Path,
    graphs: Iterable[Artifact],
    spec: BuildSpec,
    engines: Mapping[str, BuiltEngine],
) -> Iterator[Artifact]:
    for graph in graphs:
        yield make_artifact(folder, graph.path, GraphKind(graph.kind), precision=spec.precision)
    for gpu, name in engine_names(spec):
        engine = make_artifact(
            folder, name, spec.target, precision=spec.precision, gpu=gpu or spec.gpus[0]
        )
        yield replace(engine, stripped=spec.refittable, memory=engines[name].memory)
    for name in (*DEVICE_FILES, *(wheel.name for wheel in folder.glob(DEVICE_WHEEL))):
        if (folder / name).is_file():
            yield make_artifact(folder, name, FileKind.DEVICE)
    for name in _weight_files(folder):
        yield make_artifact(folder, name, FileKind.WEIGHTS, precision=spec.precision)
    yield make_artifact(folder, TOKENIZER_FILE, FileKind.TOKENIZER)
    for name in CLIENT_FILES:
        if (folder / name).is_file():
            yield make_artifact(folder, name, FileKind.CONFIG)
    yield make_artifact(folder, REFERENCE_FILE, FileKind.REFERENCE)
    yield make_artifact(folder, PARITY_FILE, FileKind.PARITY)
    for name, kind in (
        (CHUNKS_FILE, FileKind.REFERENCE_CHUNKS),
        (PLAN_FILE, FileKind.PLAN),
        (CALIBRATION_FILE, FileKind.CALIBRATION),
        (REPORT_FILE, FileKind.REPORT),
        (VOCABULARY_FILE, FileKind.VOCABULARY),
        (FINGERPRINT_FILE, FileKind.FINGERPRINT),
    ):
        if (folder / name).is_file():
            yield make_artifact(folder, name, kind)


def _versions(inputs: BuildInputs) -> dict[str, str]:
    packages = ("adaptrt", "torch", "transformers", "peft", "onnx", "onnxruntime", "openvino")
    versions = {name: _version(name) for name in packages}
    if (trt := inputs.trt) is not None:
        versions["tensorrt"] = f"{trt.__name__} {trt.__version__}"
    elif inputs.engines is not None:
        versions["tensorrt"] = inputs.engines.manifest.versions.get("tensorrt", "not recorded")
    return versions


def _version(package: str) -> str:
    """A bare checkout, which no package manager knows, runs too."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
