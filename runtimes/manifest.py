"""A bundle's manifest: what the folder holds, what it was made from, how it was verified."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from runtimes.errors import InputError
from runtimes.files import read_json, sha256
from runtimes.profiles import Profile, read_profile

SCHEMA = 1
FILE = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One file of the bundle. ``gpu`` is set for engines, ``precision`` for graphs and engines.

    ``stripped`` engines hold no weights and take those of the bundle's graph when loaded.
    ``memory`` is the device memory for activations in each profile, bytes; None where the engine
    was built without a GPU, which alone can say.
    """

    path: str
    kind: str
    bytes: int
    sha256: str
    precision: str | None = None
    gpu: str | None = None
    stripped: bool = False
    memory: tuple[int, ...] | None = None


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
    profiles: tuple[Profile, ...] = ()  # of the engines
    head: str = "sentence"  # or "chunks"; bundles of before have no such entry
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


def read_manifest(bundle: Path, *, files: bool = True) -> Manifest:
    """Read a bundle's manifest; every artefact must be there in its recorded size.

    Without ``files`` the manifest alone is read, also that of a damaged bundle.
    """
    if not bundle.is_dir():
        raise InputError(f"BUNDLE: {bundle} is not a folder; {_whereabouts(bundle)}")
    path = bundle / FILE
    if not path.is_file():
        raise InputError(f"BUNDLE: {bundle} has no {FILE}; `make engine` prints where it wrote")
    raw = read_json(path)
    if raw.get("schema") != SCHEMA:
        raise InputError(
            f"{path}: schema {raw.get('schema')!r}, expected {SCHEMA}; build the bundle again"
        )
    try:
        artifacts = tuple(_read_artifact(entry) for entry in raw.pop("artifacts"))
        lists = {name: tuple(raw[name]) for name in ("dimensions", "tasks")}
        profiles = tuple(read_profile(entry) for entry in raw.get("profiles", ()))
        manifest = Manifest(artifacts=artifacts, **raw | lists | {"profiles": profiles})
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise InputError(f"{path}: not a manifest of this version ({error})") from error
    for entry in artifacts if files else ():
        _check_file(bundle, entry)
    return manifest


def _whereabouts(bundle: Path) -> str:
    """What helps where no bundle is.

    A build that replaces one in two steps (:mod:`export.publish`) may have been killed in between.
    """
    for former in bundle.parent.glob(f".{glob.escape(bundle.name)}.former-*"):
        back = shlex.join(["mv", str(former), str(bundle)])
        return f"a build was killed while it replaced it: `{back}`, or build it again"
    return "`make engine` prints where it wrote"


def _read_artifact(entry: dict[str, Any]) -> Artifact:
    """JSON has lists where we have tuples."""
    artifact = Artifact(**entry)
    return artifact if artifact.memory is None else replace(artifact, memory=tuple(artifact.memory))


def _check_file(bundle: Path, entry: Artifact) -> None:
    path = PurePosixPath(str(entry.path))
    if not isinstance(entry.path, str) or path.is_absolute() or ".." in path.parts:
        raise InputError(f"{bundle / FILE}: {entry.path!r} leads out of the bundle")
    file = bundle / entry.path
    if not file.is_file():
        raise InputError(f"{file}: no such file, but the manifest names it; copy the whole bundle")
    if (size := file.stat().st_size) != entry.bytes:
        raise InputError(f"{file}: {size} bytes, expected {entry.bytes}; copy the bundle again")
