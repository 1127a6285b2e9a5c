"""The stages in order: checkpoint → graph → weights → parity → engines → bundle."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir

from export.adapters import Adapter
from export.bundle import staging, write_json
from export.checkpoint import Checkpoint, open_checkpoint
from export.engine import EngineSpec, build_engine, check_gpus, load_tensorrt
from export.lowering import Kind, lower
from export.parity import (
    ParityReport,
    ParityText,
    compare,
    embed,
    parity_texts,
    require,
    row_cosines,
    texts_sha256,
    thin,
)
from export.source import Source, resolve
from export.spec import BuildSpec, Precision, Target
from export.trace import WEIGHT_FILE, PortableGraph, trace
from export.weights import CastReport, write_weights
from runtimes.base import Runtime
from runtimes.embedder import Vectors
from runtimes.errors import InputError
from runtimes.files import sha256
from runtimes.manifest import FILE, SCHEMA, Artifact, Manifest, make_artifact
from runtimes.tokens import TextTokenizer

GRAPH_FILES = {
    Kind.PORTABLE: "model.onnx",
    Kind.ONNXRUNTIME: "model.onnxruntime.onnx",
    Kind.TENSORRT: "model.tensorrt.onnx",
    Kind.PRIMITIVE: "model.primitive.onnx",
}
REFERENCE_FILE = "reference.npy"
PARITY_FILE = "parity.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
UNSTATED_LICENCE = "not stated; the published jina-embeddings-v3 weights are CC-BY-NC-4.0"
_NOISE_TEXTS = 8


@dataclass(frozen=True)
class Opened:
    """What every task of one build shares."""

    spec: BuildSpec
    source: Source
    checkpoint: Checkpoint
    tokenizer: TextTokenizer
    sha256: str
    trt: ModuleType | None
    index: int = 0  # which of the build's tasks this is


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
        source.folder / "tokenizer.json",
        max_tokens=spec.limits.max_tokens,
        pad_id=checkpoint.config.pad_id,
    )
    trt = None
    if spec.target is not Target.ONNXRUNTIME:
        trt = load_tensorrt(spec.target)
        if spec.target is Target.TENSORRT_RTX:
            check_gpus(trt, spec.gpus)
    return Opened(spec, source, checkpoint, tokenizer, _checkpoint_sha256(checkpoint), trt)


def build_tasks(spec: BuildSpec, tasks: tuple[str, ...] | None) -> Iterator[tuple[Path, Manifest]]:
    """Build one bundle per task (``None``: every adapter the checkpoint has), one after another."""
    opened = open_build(spec)
    for index, task in enumerate(tasks or opened.checkpoint.tasks):
        yield _build_task(replace(opened, spec=replace(spec, task=task), index=index))


def _build_task(opened: Opened) -> tuple[Path, Manifest]:
    spec, checkpoint = opened.spec, opened.checkpoint
    adapter = checkpoint.adapter(spec.task)  # an unknown task ends here, before anything is written
    final = spec.out / checkpoint.name / f"{spec.task}-{spec.precision}"
    with staging(final) as folder:
        graph = _write_graphs(folder, opened)
        cast = write_weights(
            folder / WEIGHT_FILE, graph.slots, checkpoint, adapter, spec.limits.max_tokens
        )
        _warn_flushed(cast, spec.precision)
        reports = _verify(folder, opened, adapter, graph)
        for gpu, name in _engine_names(spec):
            engine = EngineSpec(
                limits=spec.limits, gpu=gpu, workspace=int(spec.workspace_gib * 2**30),
                timing_cache=None if gpu else spec.out / ".cache" / f"{spec.target}.timing",
            )  # fmt: skip
            build_engine(opened.trt, folder / GRAPH_FILES[Kind.TENSORRT], folder / name, engine)
        manifest = _manifest(folder, opened, reports, cast)
        write_json(folder / FILE, manifest.to_json())
    return final, manifest


def _write_graphs(folder: Path, opened: Opened) -> PortableGraph:
    spec = opened.spec
    graph = trace(
        opened.checkpoint.config, spec.precision.dtype,
        spec.limits.max_batch, spec.limits.max_tokens,
    )  # fmt: skip
    for kind, name in GRAPH_FILES.items():
        proto = ir.to_proto(lower(graph.model(), kind))
        (folder / name).write_bytes(proto.SerializeToString(deterministic=True))
    for name in TOKENIZER_FILES:
        if (opened.source.folder / name).is_file():
            shutil.copyfile(opened.source.folder / name, folder / name)
    return graph


def _verify(
    folder: Path, opened: Opened, adapter: Adapter, graph: PortableGraph
) -> dict[str, ParityReport]:
    """Run every shipped graph that can run here against the reference; the main one comes first."""
    prefix = opened.checkpoint.config.prefix(adapter.task)
    texts = parity_texts(opened.tokenizer, prefix, opened.spec.parity_tokens)
    if opened.index > 0:
        texts = thin(texts, opened.index)
    reference, name, noise = _reference_vectors(opened, texts)
    np.save(folder / REFERENCE_FILE, reference)
    reports = {}
    for kind in executed_kinds(opened.spec):
        with open_graph(folder, kind, opened, graph) as runtime:
            vectors = embed(runtime, texts, opened.tokenizer)
            names = {"reference": name, "executed": runtime.name}
        gc.collect()
        report = compare(
            reference, vectors, texts, names=names, threshold=opened.spec.precision.min_cosine
        )
        require(report, GRAPH_FILES[kind])
        reports[kind.value] = report
    write_json(folder / PARITY_FILE, {
        "texts_sha256": texts_sha256(),
        "parity_tokens": opened.spec.parity_tokens,
        "reference_bf16_min_cosine": noise,
        "graphs": {k: r.summary() | {"texts": [vars(t) for t in r.texts]}
                   for k, r in reports.items()},
    })  # fmt: skip
    return reports


def executed_kinds(spec: BuildSpec) -> tuple[Kind, ...]:
    """Which graphs the gate runs, the one that speaks for the target first.

    Without a GPU that is the portable graph: the very types the engine was built from.
    """
    if spec.target is Target.ONNXRUNTIME:
        return (Kind.ONNXRUNTIME, Kind.PORTABLE)
    return (Kind.PORTABLE, Kind.ONNXRUNTIME)


def open_graph(folder: Path, kind: Kind, opened: Opened, graph: PortableGraph) -> Runtime:
    """An executor for one of a bundle's graphs; BF16, which ONNX Runtime's CPU lacks, in torch."""
    if kind is not Kind.ONNXRUNTIME and opened.spec.precision is Precision.BF16:
        from export.encoder import load_encoder
        from runtimes.torch_reference import TorchModule

        spec = opened.spec
        return TorchModule(load_encoder(
            opened.checkpoint.config, graph.dtype, spec.limits.max_tokens,
            folder / WEIGHT_FILE, graph.slots,
        ))  # fmt: skip
    from runtimes.ort import OrtRuntime

    return OrtRuntime(folder / GRAPH_FILES[kind])


def _reference_vectors(opened: Opened, texts: list[ParityText]) -> tuple[Vectors, str, float]:
    """The reference's vectors, its name, and its own BF16-to-FP32 cosine on the first texts."""
    import torch

    from export.reference import reference_model
    from runtimes.torch_reference import FlashReference

    model = reference_model(opened.checkpoint, opened.spec.task)
    reference = FlashReference(model)
    vectors, name = embed(reference, texts, opened.tokenizer), reference.name
    for parameter in model.parameters():  # not .to(): that would round RoPE's frequencies too
        parameter.data = parameter.data.to(torch.bfloat16)
    some = texts[:_NOISE_TEXTS]
    rounded = embed(FlashReference(model), some, opened.tokenizer)
    return vectors, name, float(row_cosines(vectors[: len(some)], rounded).min())


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
    folder: Path, opened: Opened, reports: dict[str, ParityReport], cast: CastReport
) -> Manifest:
    spec, config = opened.spec, opened.checkpoint.config
    main = next(iter(reports.values()))
    return Manifest(
        schema=SCHEMA,
        model={
            "name": opened.source.name,
            "format": opened.checkpoint.format,
            "revision": opened.source.revision,
            "sha256": opened.sha256,
            "licence": opened.source.licence or UNSTATED_LICENCE,
        },
        task=spec.task,
        adapter="merged",
        precision=spec.precision.value,
        target={"name": spec.target.value, "requested": spec.requested_target},
        max_batch=spec.limits.max_batch,
        max_tokens=spec.limits.max_tokens,
        dimensions=config.dimensions,
        prefix=config.prefix(spec.task),
        pad_id=config.pad_id,
        artifacts=tuple(_artifacts(folder, spec)),
        parity=main.summary() | {"flushed_weights": dict(cast.flushed)},
        versions=_versions(opened.trt),
    )


def _artifacts(folder: Path, spec: BuildSpec) -> Iterator[Artifact]:
    precision = spec.precision.value
    for kind, name in GRAPH_FILES.items():
        yield make_artifact(folder, name, kind.value, precision=precision)
    for gpu, name in _engine_names(spec):
        yield make_artifact(
            folder, name, spec.target.value, precision=precision, gpu=gpu or spec.gpus[0]
        )
    yield make_artifact(folder, WEIGHT_FILE, "weights", precision=precision)
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            yield make_artifact(folder, name, "tokenizer" if name == TOKENIZER_FILES[0]
                                else "tokenizer_config")  # fmt: skip
    yield make_artifact(folder, REFERENCE_FILE, "reference")
    yield make_artifact(folder, PARITY_FILE, "parity")


def _versions(trt: Any) -> dict[str, str]:
    packages = ("adaptrt", "torch", "transformers", "peft", "onnx", "onnxruntime")
    found = {name: version(name) for name in packages}
    return found | ({"tensorrt": f"{trt.__name__} {trt.__version__}"} if trt else {})


def _checkpoint_sha256(checkpoint: Checkpoint) -> str:
    """SHA-256 of the weights; of several shards (or with an own adapter), of their hashes."""
    import hashlib

    paths = sorted({checkpoint.files.path(name) for name in checkpoint.files.names})
    if checkpoint.adapter_path is not None:
        paths += sorted(checkpoint.adapter_path.glob("adapter_model*.safetensors"))
    hashes = [sha256(path) for path in paths]
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
