"""``adaptrt verify``: is a bundle still what was built, and does it still agree?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle import check_hashes
from export.parity import (
    ParityReport,
    ParityText,
    compare,
    embed,
    parity_texts,
    require,
    texts_sha256,
)
from runtimes.embedder import load_tokenizer
from runtimes.errors import GateError, InputError
from runtimes.files import read_json
from runtimes.manifest import Manifest
from runtimes.ort import OrtRuntime, PooledOrtRuntime
from runtimes.tokens import TextTokenizer


def verify(bundle: Path) -> ParityReport:
    """Re-hash every file and run the CPU graph again on the gate's texts.

    The vectors are compared with the reference's, which the bundle holds, so this needs neither
    the checkpoint nor torch. Raises :class:`GateError` where anything differs.
    """
    manifest = check_hashes(bundle)
    recorded = read_json(bundle / manifest.artifact("parity").path)
    if recorded["texts_sha256"] != texts_sha256():
        raise InputError(
            f"{bundle}: built with other parity texts (adaptrt {manifest.versions['adaptrt']}); "
            "verify with that version, or build the bundle again"
        )
    before = recorded["graphs"]["onnxruntime"]
    tokenizer = load_tokenizer(bundle, manifest)
    texts = _texts(manifest, tokenizer, recorded["parity_tokens"], before["texts"])
    executor = PooledOrtRuntime if manifest.interface == "official" else OrtRuntime
    with executor(bundle / manifest.artifact("onnxruntime").path) as runtime:
        vectors = embed(runtime, texts, tokenizer)
        names = {"reference": before["reference"], "executed": runtime.name}
    reference = np.load(bundle / manifest.artifact("reference").path, allow_pickle=False)
    if reference.shape != vectors.shape:
        raise GateError(f"{bundle}: {len(vectors)} texts, the reference holds {len(reference)}")
    report = compare(reference, vectors, texts, names=names, threshold=before["threshold"])
    require(report, manifest.artifact("onnxruntime").path)
    # CPUs round differently; a change as large as the gate's own margin is another model.
    margin = 1 - report.threshold
    if abs(report.min_cosine - before["min_cosine"]) > margin:
        raise GateError(
            f"{bundle}: minimum cosine {report.min_cosine:.7f}, the manifest recorded "
            f"{before['min_cosine']:.7f}"
        )
    return report


def _texts(
    manifest: Manifest, tokenizer: TextTokenizer, longest: int, recorded: list[dict[str, Any]]
) -> list[ParityText]:
    """The recorded texts in their order, tokenised anew with each one's task's prefix."""
    known = {
        (task, text.name): replace(text, task=task, task_id=_task_id(manifest, task))
        for task, prefix in manifest.prefixes.items()
        for text in parity_texts(tokenizer, prefix, longest)
    }
    return [known[entry["task"], entry["name"]] for entry in recorded]


def _task_id(manifest: Manifest, task: str) -> int | None:
    if manifest.adapter != "switchable":
        return None
    return manifest.tasks.index(task) if task in manifest.tasks else -1
