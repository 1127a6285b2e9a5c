"""What was asked for, made concrete: the bundle's part in it, and what a run is compared by."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import pyarrow as pa

from runtimes.auto import choose
from runtimes.choices import Device, FileKind, GraphKind, HeadName, Target
from runtimes.corpus.columns import output_schema
from runtimes.corpus.records import Job, Loading, Request, Wanted, plain
from runtimes.corpus.sources import Source
from runtimes.embedder import Embedder
from runtimes.errors import InputError
from runtimes.fingerprint import fingerprint_of
from runtimes.manifest import Manifest

# A part's bytes follow from these too.
_LIBRARIES = (
    "adaptrt",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "pyarrow",
    "tokenizers",
)
_SHAPING = (*GraphKind, *Target, FileKind.WEIGHTS, FileKind.TOKENIZER)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What only an open bundle says: ``width`` of its vectors, who executes it.

    ``threads`` are those of an executor on a CPU: with another number the last bits of a few
    vectors differ.
    """

    fingerprint: bytes
    digest: str
    bundle: str
    executor: str
    threads: int | None
    width: int
    versions: Mapping[str, str]


def load(loading: Loading) -> Embedder:
    """The bundle, opened."""
    return Embedder.load(
        loading.bundle,
        runtime=loading.runtime,
        device=loading.device,
        threads=loading.threads,
        adapter=loading.adapter,
        max_bytes=loading.max_bytes,
        spinning=False,  # between calls the cores belong to the tokenizer
    )


def describe(embedder: Embedder, wanted: Wanted, loading: Loading) -> Facts:
    """Raises :class:`InputError` for a task, length or type that the bundle does not have."""
    manifest = embedder.manifest
    if wanted.chunked and manifest.head is not HeadName.CHUNKS:
        raise InputError(
            "--late-chunking: this bundle gives one vector per text; build one with HEAD=chunks"
        )
    task, output, prefix = wanted.task, wanted.output.output, wanted.prefix
    dimensions = wanted.dimensions
    # Refuses what the bundle does not have, in fewer words than sixteen canaries would.
    embedder.encode(["a"], task=task, dimensions=dimensions, output=output, prefix=prefix)
    one = fingerprint_of(embedder, task=task, dimensions=dimensions, output=output, prefix=prefix)
    return Facts(
        fingerprint=one.to_bytes(),
        digest=one.digest,
        bundle=_files_hash(manifest),
        executor=embedder.runtime.name,
        threads=_threads(manifest, loading),
        width=one.dimensions,
        versions=_versions(),
    )


def make_job(request: Request, source: Source, columns: pa.Schema, facts: Facts) -> Job:
    """What workers get; ``columns`` are what is kept of the input."""
    wanted = request.wanted
    return Job(
        root=source.root.absolute(),
        out=request.out.absolute(),
        kind=source.kind,
        wanted=wanted,
        loading=request.loading,
        columns=columns.serialize().to_pybytes(),
        schema=output_schema(columns, wanted, facts.width).serialize().to_pybytes(),
        fingerprint=facts.fingerprint,
        identity=_identity(wanted, columns, source, facts),
        on_error=request.on_error,
    )


def _identity(
    wanted: Wanted, columns: pa.Schema, source: Source, facts: Facts
) -> dict[str, object]:
    """By name, what a part's bytes follow from beside its split."""
    return {
        **plain(wanted),
        "kind": source.kind,
        "types": {field.name: str(field.type) for field in columns},
        "bundle": facts.bundle,
        "fingerprint": facts.digest,
        "executor": facts.executor,
        "threads": facts.threads,
        "versions": dict(facts.versions),
    }


def _threads(manifest: Manifest, loading: Loading) -> int | None:
    """As :meth:`Embedder.load` chooses them; one for each core where nothing else is said."""
    chosen = choose(
        loading.bundle,
        manifest,
        loading.runtime,
        device=loading.device,
        threads=loading.threads,
        adapter=loading.adapter,
    )
    if chosen.executor.device is not Device.CPU:
        return None
    return chosen.threads or len(os.sched_getaffinity(0))


def _files_hash(manifest: Manifest) -> str:
    """Of the files that a vector can follow from: not of reports."""
    listed = sorted(
        (str(a.kind), a.gpu or "", a.sha256) for a in manifest.artifacts if a.kind in _SHAPING
    )
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
