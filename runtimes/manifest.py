"""Reading a bundle's manifest, and describing the files that a new one lists."""

from __future__ import annotations

import glob
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from runtimes.bundle_files import MANIFEST_FILE
from runtimes.choices import ArtifactKind, Precision
from runtimes.errors import AdaptrtError, GateError, InputError, shown
from runtimes.files import sha256
from runtimes.manifest_records import (
    SCHEMA,
    SCHEMA_MINOR,
    Architecture,
    Artifact,
    BuiltFor,
    Coverage,
    Manifest,
    Model,
    Parity,
    Predicted,
    Quantisation,
    TableCost,
    Vocabulary,
)
from runtimes.manifest_rules import broken_rule
from runtimes.manifest_upgrade import upgraded
from runtimes.typed_json import JsonObject, as_record, read_object, unknown_keys

__all__ = [
    "SCHEMA",
    "SCHEMA_MINOR",
    "UNHASHED",
    "Architecture",
    "Artifact",
    "BuiltFor",
    "Coverage",
    "Manifest",
    "Model",
    "Parity",
    "Predicted",
    "Quantisation",
    "TableCost",
    "Vocabulary",
    "make_artifact",
    "read_manifest",
    "require_as_built",
    "unreplaced",
]
T = TypeVar("T")
_TRIES = 10  # a build takes seconds, reading a bundle a part of one

UNHASHED = "0" * 64  # of a bundle that is being written


def make_artifact(
    folder: Path,
    path: str,
    kind: ArtifactKind,
    *,
    precision: Precision | None = None,
    gpu: str | None = None,
) -> Artifact:
    """Describe a file of ``folder``."""
    file = folder / path
    return Artifact(
        path=path,
        kind=kind.value,
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


def require_as_built(bundle: Path, entry: Artifact) -> Path:
    """The file of an entry; :class:`GateError` where its bytes are not those that were recorded.

    For files that shape vectors and take milliseconds to read. Weights take seconds: of them
    :func:`read_manifest` compares the size, and ``adaptrt verify`` every byte.
    """
    file = bundle / entry.path
    if entry.sha256 != UNHASHED and (digest := sha256(file)) != entry.sha256:
        raise GateError(
            f"{file}: SHA-256 {digest[:12]}…, the manifest recorded {entry.sha256[:12]}…; "
            "copy the bundle again or rebuild it"
        )
    return file


def unreplaced(bundle: Path, read: Callable[[], T], discard: Callable[[T], object]) -> T:
    """What ``read`` makes of a bundle's files, which are all of one bundle.

    A build may put another in its place meanwhile: its weights would be run under the former one's
    manifest. What was read then is discarded, or its error forgotten, and read again; after some
    times :class:`AdaptrtError`.
    """
    for _ in range(_TRIES):
        before = _stamp(bundle)
        try:
            found = read()
        except (AdaptrtError, OSError):
            if _stamp(bundle) == before:
                raise
            continue
        if _stamp(bundle) == before:
            return found
        discard(found)
    raise AdaptrtError(
        f"{bundle} was replaced {_TRIES} times while it was being read; try again when its builds "
        "have ended"
    )


def _stamp(bundle: Path) -> tuple[int, ...] | None:
    try:
        status = (bundle / MANIFEST_FILE).stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _whereabouts(bundle: Path) -> str:
    """What helps where no bundle is.

    A build that replaces one in two steps (:mod:`export.bundle.publish`) may have been killed in
    between.
    """
    for former in bundle.parent.glob(f".{glob.escape(bundle.name)}.former-*"):
        back = shlex.join(["mv", str(former), str(bundle)])
        return f"a build was killed while it replaced it: `{back}`, or build it again"
    return "`make engine` prints where it wrote"


def _parse(path: Path, raw: JsonObject) -> Manifest:
    """A newer minor schema may have entries that this version knows nothing of."""
    if (schema := raw.get("schema")) != SCHEMA:
        raise InputError(
            f"{path}: schema {shown(schema)}, expected {SCHEMA}; {_writer(raw)}: install that "
            "version, or build the bundle again"
        )
    minor = raw.get("schema_minor", 0)
    raw = upgraded(raw)
    newer = isinstance(minor, int) and minor > SCHEMA_MINOR
    hint = f"{_writer(raw)}, a newer one: install it" if newer else "copy it again or build it anew"
    if not newer and (unknown := next(unknown_keys(raw, Manifest), None)) is not None:
        raise InputError(f"{path}: {shown(unknown)}: no such entry in a manifest; {hint}")
    manifest = as_record(raw, Manifest, path, hint)
    if (broken := broken_rule(manifest)) is not None:
        raise InputError(f"{path}: {broken}; {hint}")
    return manifest


def _writer(raw: JsonObject) -> str:
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
