"""A bundle's manifest: what the folder holds, what it was made from, how it was verified."""

from __future__ import annotations

import glob
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

from runtimes.bundle_files import MANIFEST_FILE
from runtimes.choices import TASK_NAME
from runtimes.errors import InputError, shown
from runtimes.files import sha256
from runtimes.manifest_rules import broken_rule
from runtimes.profiles import Profile
from runtimes.typed_json import Plain, as_record, read_object, unknown_keys

SCHEMA, SCHEMA_MINOR = 1, 1

_Number = Annotated[int, Meta(ge=0, le=2**62)]
_Size = Annotated[int, Meta(ge=1, le=10**7)]
_Positive = Annotated[float, Meta(gt=0, lt=1e12)]
_Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Task = Annotated[str, Meta(pattern=rf"^{TASK_NAME.pattern}\Z")]


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One file of the bundle. ``gpu`` is set for engines, ``precision`` for graphs and engines.

    ``stripped`` engines hold no weights and take those of the bundle's graph when loaded.
    ``memory`` is the device memory for activations in each profile, bytes; None where the engine
    was built without a GPU, which alone can say.
    """

    path: str
    kind: Plain
    bytes: _Number
    sha256: _Sha256
    precision: str | None = None
    gpu: Annotated[str, Meta(pattern=r"^sm\d{2,3}\Z")] | None = None
    stripped: bool = False
    memory: tuple[_Number, ...] | None = None


class Model(TypedDict):
    """The checkpoint; ``sha256`` of its weights."""

    name: str
    sha256: _Sha256
    format: NotRequired[Plain]
    revision: NotRequired[str | None]
    licence: NotRequired[str]


class Architecture(TypedDict):
    """The shape of the encoder (:class:`export.checkpoint.config.EncoderConfig`)."""

    hidden: _Size
    layers: _Size
    heads: _Size
    intermediate: _Size
    vocab: _Size
    token_types: Annotated[int, Meta(ge=0, le=10**7)]  # 0: the model has none
    max_positions: _Size
    layer_norm_eps: _Positive
    rope_theta: _Positive
    pad_id: _Number


class BuiltFor(TypedDict):
    """``name`` of the target, ``requested`` as the user said it."""

    name: str
    requested: NotRequired[Plain]


class Parity(TypedDict, total=False):
    """How the graph that speaks for the target compared with the reference."""

    reference: Plain
    executed: Plain
    rows: _Number
    min_cosine: float
    mean_cosine: float
    max_abs: float
    threshold: float
    mean_threshold: float
    passed: bool
    reference_bf16_min_cosine: float
    flushed_weights: Mapping[str, float]  # by tensor, the share of values that became zero


class Quantisation(TypedDict, total=False):
    """What of an INT8 bundle is in INT8: GEMMs by name, ``fallback`` with the reasons."""

    int8_share: float
    int8: list[str]
    fallback: Mapping[str, str]
    fallback_type: Plain
    observer: Plain
    calibration_key: Plain
    corpus_sha256: Plain


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of ``manifest.json``; field by field in docs/reference/manifest.md.

    Read from a file, every entry has its type and range, and :mod:`runtimes.manifest_rules` hold.
    """

    schema: int
    schema_minor: _Number = 0  # bundles of before have no such entry
    model: Model
    architecture: Architecture
    task: _Task
    tasks: Annotated[tuple[_Task, ...], Meta(min_length=1)]
    adapter: str
    slot_rank: Annotated[int, Meta(ge=1, le=1024)] | None
    interface: str
    precision: str
    target: BuiltFor
    max_batch: _Size
    max_tokens: Annotated[int, Meta(ge=16, le=10**7)]
    dimensions: Annotated[tuple[_Size, ...], Meta(min_length=1)]
    prefix: str
    prefixes: Mapping[_Task, str]
    pad_id: _Number
    artifacts: tuple[Artifact, ...]
    parity: Parity
    versions: Mapping[str, Plain]
    profiles: tuple[Profile, ...] = ()  # of the engines
    head: str = "sentence"  # or "chunks"; bundles of before have no such entry
    quantisation: Quantisation | None = None  # of an INT8 bundle

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    def artifact(self, kind: str) -> Artifact:
        """The one artefact of a kind; :class:`InputError` where the bundle has none."""
        for entry in self.artifacts:
            if entry.kind == kind:
                return entry
        kinds = ", ".join(sorted({entry.kind for entry in self.artifacts}))
        raise InputError(f"the bundle has no {kind!r} artefact, only {kinds}; build it again")


def make_artifact(
    folder: Path, path: str, kind: str, *, precision: str | None = None, gpu: str | None = None
) -> Artifact:
    """Describe a file of ``folder``."""
    file = folder / path
    return Artifact(
        path=path,
        kind=kind,
        bytes=file.stat().st_size,
        sha256=sha256(file),
        precision=precision,
        gpu=gpu,
    )


def read_manifest(bundle: Path, *, files: bool = True) -> Manifest:
    """Read a bundle's manifest; every artefact must be there in its recorded size.

    Without ``files`` the manifest alone is read, also that of a damaged bundle.
    """
    if not os.path.isdir(bundle):  # noqa: PTH112 - Path.is_dir raises where a name is too long
        raise InputError(f"BUNDLE: {shown(str(bundle))} is not a folder; {_whereabouts(bundle)}")
    path = bundle / MANIFEST_FILE
    if not path.is_file():
        raise InputError(
            f"BUNDLE: {bundle} has no {MANIFEST_FILE}; `make engine` prints where it wrote"
        )
    manifest = _parse(path, read_object(path))
    for entry in manifest.artifacts if files else ():
        _check_file(bundle, entry)
    return manifest


def _whereabouts(bundle: Path) -> str:
    """What helps where no bundle is.

    A build that replaces one in two steps (:mod:`export.bundle.publish`) may have been killed in
    between.
    """
    for former in bundle.parent.glob(f".{glob.escape(bundle.name)}.former-*"):
        back = shlex.join(["mv", str(former), str(bundle)])
        return f"a build was killed while it replaced it: `{back}`, or build it again"
    return "`make engine` prints where it wrote"


def _parse(path: Path, raw: dict[str, Any]) -> Manifest:
    """A newer minor schema may have entries that this version knows nothing of."""
    if (schema := raw.get("schema")) != SCHEMA:
        raise InputError(
            f"{path}: schema {shown(schema)}, expected {SCHEMA}; {_writer(raw)}: install that "
            "version, or build the bundle again"
        )
    minor = raw.get("schema_minor", 0)
    newer = isinstance(minor, int) and minor > SCHEMA_MINOR
    hint = f"{_writer(raw)}, a newer one: install it" if newer else "copy it again or build it anew"
    if not newer and (unknown := next(unknown_keys(raw, Manifest), None)) is not None:
        raise InputError(f"{path}: {shown(unknown)}: no such entry in a manifest; {hint}")
    manifest = as_record(raw, Manifest, path, hint)
    if (broken := broken_rule(manifest)) is not None:
        raise InputError(f"{path}: {broken}; {hint}")
    return manifest


def _writer(raw: dict[str, Any]) -> str:
    versions = raw.get("versions")
    version = versions.get("adaptrt") if isinstance(versions, dict) else None
    return f"written by adaptrt {shown(version) if version else 'of an unrecorded version'}"


def _check_file(bundle: Path, entry: Artifact) -> None:
    file = bundle / entry.path
    if not file.is_file():
        raise InputError(f"{file}: no such file, but the manifest names it; copy the whole bundle")
    if not file.resolve().is_relative_to(bundle.resolve()):  # ONNX Runtime refuses such weights too
        raise InputError(
            f"{file}: a link out of the bundle; copy the bundle with the files themselves (cp -L)"
        )
    if (size := file.stat().st_size) != entry.bytes:
        raise InputError(f"{file}: {size} bytes, expected {entry.bytes}; copy the bundle again")
