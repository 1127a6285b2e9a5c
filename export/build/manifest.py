"""What a bundle's manifest says: its files, how they were made and how they compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from msgspec import convert

from export.build.inputs import Opened
from export.bundle.plan import BundlePlan, engine_names
from export.engines.profiles import engine_profiles
from export.gate.judge import Verdict
from export.graph.weights import CastReport
from export.spec import BuildSpec
from runtimes.bundle_files import (
    CALIBRATION_FILE,
    CHUNKS_FILE,
    DEVICE_FILES,
    OFFICIAL_FOLDER,
    PARITY_FILE,
    REFERENCE_FILE,
    REPORT_FILE,
    SHARED_FILE,
    TOKENIZER_FILE,
    TOKENIZER_FILES,
    WEIGHT_FILE,
)
from runtimes.choices import AdapterMode, GraphKind, Target
from runtimes.manifest import (
    SCHEMA,
    SCHEMA_MINOR,
    Architecture,
    Artifact,
    Manifest,
    Parity,
    Quantisation,
    make_artifact,
)

UNSTATED_LICENCE = "not stated; the published jina-embeddings-v3 weights are CC-BY-NC-4.0"


@dataclass(frozen=True)
class Attempt:
    """A staged bundle that passed its gate; engines' ``memory`` by file, a number per profile."""

    verdict: Verdict
    cast: CastReport
    memory: Mapping[str, tuple[int, ...] | None]


def make_manifest(
    folder: Path,
    files: dict[GraphKind, str],
    opened: Opened,
    plan: BundlePlan,
    made: Attempt,
    quantisation: dict[str, Any] | None,
) -> Manifest:
    """The manifest of a staged bundle."""
    spec, config = opened.spec, opened.checkpoint.config
    main = next(iter(made.verdict.reports.values()))
    task = plan.tasks[0] if len(plan.tasks) == 1 else "all"
    return Manifest(
        schema=SCHEMA,
        schema_minor=SCHEMA_MINOR,
        model={
            "name": opened.source.name,
            "format": opened.checkpoint.format,
            "revision": opened.source.revision,
            "sha256": opened.sha256,
            "licence": opened.source.licence or UNSTATED_LICENCE,
        },
        architecture=convert(config.architecture(), Architecture),
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
        artifacts=tuple(_artifacts(folder, files, spec, made.memory)),
        parity=convert(
            main.summary()
            | {
                "reference_bf16_min_cosine": made.verdict.noise,
                "flushed_weights": dict(made.cast.flushed),
            },
            Parity,
        ),
        versions=_versions(opened),
        profiles=(
            () if spec.target is Target.ONNXRUNTIME else engine_profiles(spec.profiles, spec.limits)
        ),
        head=spec.head.value,
        quantisation=convert(quantisation, Quantisation | None),
    )


def _artifacts(
    folder: Path,
    files: dict[GraphKind, str],
    spec: BuildSpec,
    memory: Mapping[str, tuple[int, ...] | None],
) -> Iterator[Artifact]:
    precision = spec.precision.value
    for kind, name in files.items():
        yield make_artifact(folder, name, kind.value, precision=precision)
    for gpu, name in engine_names(spec):
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
    yield make_artifact(folder, TOKENIZER_FILE, "tokenizer")
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            yield make_artifact(folder, name, "config")
    yield make_artifact(folder, REFERENCE_FILE, "reference")
    yield make_artifact(folder, PARITY_FILE, "parity")
    for name, label in (
        (CHUNKS_FILE, "reference_chunks"),
        (CALIBRATION_FILE, "calibration"),
        (REPORT_FILE, "report"),
    ):
        if (folder / name).is_file():
            yield make_artifact(folder, name, label)


def _versions(opened: Opened) -> dict[str, str]:
    packages = ("adaptrt", "torch", "transformers", "peft", "onnx", "onnxruntime")
    found = {name: _version(name) for name in packages}
    if (trt := opened.trt) is not None:
        found["tensorrt"] = f"{trt.__name__} {trt.__version__}"
    elif opened.engines is not None:
        found["tensorrt"] = opened.engines.manifest.versions.get("tensorrt", "not recorded")
    return found


def _version(package: str) -> str:
    """A bare checkout, which no package manager knows, runs too."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
