"""Bundles on disk: staged, flushed, reloaded, compared, then renamed into place."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runtimes.errors import AdaptrtError, GateError
from runtimes.files import sha256
from runtimes.manifest import FILE, Manifest, read_manifest


@contextmanager
def staging(final: Path, *, bundle: bool = True) -> Iterator[Path]:
    """A folder beside ``final`` to write into; published when the block ends without an error.

    A ``bundle`` is re-hashed against its manifest before. Whatever ends the block early, what
    stood at ``final`` stays as it was. What a killed process left behind is removed by the next
    one that writes there.
    """
    made = [p for p in (final.parent, *final.parent.parents) if not p.exists()]
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(final)
        folder = final.parent / f".{final.name}.staging-{os.getpid()}"
        folder.mkdir()
    except OSError as error:
        raise AdaptrtError(f"OUT: cannot write below {final.parent} ({error})") from error
    try:
        yield folder
        _flush(folder)
        if bundle:
            check_hashes(folder)
        _publish(folder, final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made:  # those this build made, inner ones first, unless something is there
            with suppress(OSError):
                parent.rmdir()


def write_json(path: Path, value: Any) -> None:
    """JSON with a stable layout."""
    text = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def check_hashes(bundle: Path) -> Manifest:
    """Read a bundle back and re-hash it; :class:`GateError` names every file that differs.

    A file that the manifest does not name is a difference too.
    """
    manifest = read_manifest(bundle)
    changed = [a.path for a in manifest.artifacts if sha256(bundle / a.path) != a.sha256]
    known = {a.path for a in manifest.artifacts} | {FILE}
    present = (p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if not p.is_dir())
    changed += sorted(path for path in present if path not in known)
    if changed:
        raise GateError(
            f"{bundle}: {', '.join(changed)} differ from the manifest's SHA-256; "
            "copy the bundle again or rebuild it"
        )
    return manifest


def _flush(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _publish(folder: Path, final: Path) -> None:
    former = final.parent / f".{final.name}.former-{os.getpid()}"
    if final.exists():
        final.rename(former)
    try:
        folder.rename(final)
    except OSError:
        if former.exists():
            former.rename(final)
        raise
    shutil.rmtree(former, ignore_errors=True)


def _remove_abandoned(final: Path) -> None:
    for leftover in final.parent.glob(f".{final.name}.*-*"):
        kind, _, pid = leftover.name.rpartition("-")
        if not pid.isdigit() or _alive(int(pid)):
            continue
        if kind.endswith(".former") and not final.exists():
            leftover.rename(final)  # killed between the two renames: the former bundle returns
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
