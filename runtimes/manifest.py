"""A bundle's manifest: what the folder holds, what it was made from, how it was verified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from runtimes.errors import InputError
from runtimes.files import read_json, sha256

SCHEMA = 1
FILE = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One file of the bundle. ``gpu`` is set for engines, ``precision`` for graphs and engines."""

    path: str
    kind: str
    bytes: int
    sha256: str
    precision: str | None = None
    gpu: str | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of ``manifest.json``; field by field in DESIGN.md."""

    schema: int
    model: Mapping[str, Any]
    architecture: Mapping[str, Any]
    task: str
    tasks: tuple[str, ...]
    adapter: str
    slot_rank: int | None
    interface: str
    precision: str
    target: Mapping[str, Any]
    max_batch: int
    max_tokens: int
    dimensions: tuple[int, ...]
    prefix: str
    prefixes: Mapping[str, str]
    pad_id: int
    artifacts: tuple[Artifact, ...]
    parity: Mapping[str, Any]
    versions: Mapping[str, str]
    quantisation: Mapping[str, Any] | None = None  # of an INT8 bundle

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
        path=path, kind=kind, bytes=file.stat().st_size, sha256=sha256(file),
        precision=precision, gpu=gpu,
    )  # fmt: skip


def read_manifest(bundle: Path) -> Manifest:
    """Read a bundle's manifest; every artefact must be there in its recorded size."""
    if not bundle.is_dir():
        raise InputError(f"BUNDLE: {bundle} is not a folder; `make engine` prints where it wrote")
    path = bundle / FILE
    raw = read_json(path)
    if raw.get("schema") != SCHEMA:
        raise InputError(
            f"{path}: schema {raw.get('schema')!r}, expected {SCHEMA}; build the bundle again"
        )
    try:
        artifacts = tuple(Artifact(**entry) for entry in raw.pop("artifacts"))
        lists = {name: tuple(raw[name]) for name in ("dimensions", "tasks")}
        manifest = Manifest(artifacts=artifacts, **raw | lists)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not a manifest of this version ({error})") from error
    for entry in artifacts:
        _check_file(bundle, entry)
    return manifest


def _check_file(bundle: Path, entry: Artifact) -> None:
    path = PurePosixPath(str(entry.path))
    if not isinstance(entry.path, str) or path.is_absolute() or ".." in path.parts:
        raise InputError(f"{bundle / FILE}: {entry.path!r} leads out of the bundle")
    file = bundle / entry.path
    if not file.is_file():
        raise InputError(f"{file}: no such file, but the manifest names it; copy the whole bundle")
    if (size := file.stat().st_size) != entry.bytes:
        raise InputError(f"{file}: {size} bytes, expected {entry.bytes}; copy the bundle again")
