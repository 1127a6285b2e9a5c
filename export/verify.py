"""``adaptrt verify``: is a bundle still what was built, and does it still agree?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle import check_hashes
from export.held_back import gate_files, held_back_texts, retrieval_texts
from export.parity import (
    ParityReport,
    ParityText,
    compare,
    embed,
    parity_texts,
    require,
    texts_sha256,
)
from export.spec import Precision
from runtimes.chunks import ChunkHead
from runtimes.embedder import Vectors, load_tokenizer
from runtimes.errors import GateError, InputError
from runtimes.files import read_json
from runtimes.manifest import Manifest
from runtimes.ort import ON_CPU, OrtRuntime, PooledOrtRuntime
from runtimes.tokens import TextTokenizer


def verify(bundle: Path) -> dict[str, ParityReport]:
    """Re-hash every file and run the graphs again on the gate's texts; a report per graph.

    The vectors are compared with the reference's, which the bundle holds, so this needs neither
    the checkpoint nor torch (and leaves out a BF16 portable graph, which only torch runs here).
    Raises :class:`GateError` where anything differs.
    """
    manifest = check_hashes(bundle)
    recorded = read_json(bundle / manifest.artifact("parity").path)
    if recorded["texts_sha256"] != texts_sha256(*gate_files(manifest.precision)):
        raise InputError(
            f"{bundle}: built with other parity texts (adaptrt {manifest.versions['adaptrt']}); "
            "verify with that version, or build the bundle again"
        )
    tokenizer = load_tokenizer(bundle, manifest)
    reference = _reference(bundle / manifest.artifact("reference").path)
    reports = {}
    for kind in ("portable", "onnxruntime", "primitive"):
        before = recorded["graphs"].get(kind)
        if before is not None and before["executed"] == ON_CPU:
            texts = _texts(manifest, tokenizer, recorded["parity_tokens"], before["texts"])
            reports[kind] = _compare(bundle, manifest, kind, before, texts, reference, tokenizer)
    return reports


def _reference(path: Path) -> Vectors:
    try:
        vectors: Vectors = np.load(path, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not an array of numbers ({error}); build again") from error
    return vectors


def _compare(
    bundle: Path,
    manifest: Manifest,
    kind: str,
    before: dict[str, Any],
    texts: list[ParityText],
    reference: Vectors,
    tokenizer: TextTokenizer,
) -> ParityReport:
    graph = manifest.artifact(kind).path
    executor = PooledOrtRuntime if manifest.interface == "official" else OrtRuntime
    opened = executor(bundle / graph)
    with ChunkHead(opened) if manifest.head == "chunks" else opened as runtime:
        vectors = embed(runtime, texts, tokenizer)
    if reference.shape != vectors.shape:
        raise GateError(f"{bundle}: {len(vectors)} texts, the reference holds {len(reference)}")
    names = {"reference": before["reference"], "executed": before["executed"]}
    report = compare(
        reference, vectors, texts, names=names,
        threshold=before["threshold"], mean_threshold=before.get("mean_threshold"),
    )  # fmt: skip
    require(report, graph)
    # CPUs round differently; a change as large as the gate's own margin is another model.
    if abs(report.min_cosine - before["min_cosine"]) > 1 - report.threshold:
        raise GateError(
            f"{bundle}: minimum cosine of {graph} {report.min_cosine:.7f}, the manifest recorded "
            f"{before['min_cosine']:.7f}"
        )
    return report


def _texts(
    manifest: Manifest, tokenizer: TextTokenizer, longest: int, recorded: list[dict[str, Any]]
) -> list[ParityText]:
    """The recorded texts in their order, tokenised anew with each one's task's prefix."""
    known = {
        (task, text.name): replace(text, task=task, task_id=_task_id(manifest, task))
        for task in manifest.prefixes
        for text in _gate_texts(manifest, tokenizer, task, longest)
    }
    return [known[entry["task"], entry["name"]] for entry in recorded]


def _gate_texts(
    manifest: Manifest, tokenizer: TextTokenizer, task: str, longest: int
) -> list[ParityText]:
    prefix = manifest.prefixes[task]
    texts = parity_texts(tokenizer, prefix, longest)
    if manifest.precision == Precision.INT8:
        texts += held_back_texts(tokenizer, prefix)
        texts += retrieval_texts(tokenizer, prefix, task, manifest.tasks)
    return texts


def _task_id(manifest: Manifest, task: str) -> int | None:
    if manifest.adapter != "switchable":
        return None
    return manifest.tasks.index(task) if task in manifest.tasks else -1
