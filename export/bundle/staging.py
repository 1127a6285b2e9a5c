"""Bundles on disk: staged, reloaded and compared, then published; what one may replace."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from export.bundle import publish
from runtimes.bundle_files import MANIFEST_FILE
from runtimes.errors import GateError, InputError
from runtimes.files import sha256
from runtimes.manifest import Manifest, read_manifest


def read_former(final: Path) -> Manifest | None:
    """The manifest of the bundle that stands where another is to go; None where nothing does.

    Its files may be damaged. Raises :class:`InputError` for anything else that is there (a file, a
    link, a folder without a manifest of ours): that is never replaced.
    """
    if not os.path.lexists(final):
        return None
    if final.is_symlink() or not final.is_dir():
        reason = "a link" if final.is_symlink() else "no folder"
    else:
        try:
            return read_manifest(final, files=False)
        except (InputError, OSError) as error:
            reason = str(error)
    raise InputError(
        f"OUT: {final} is no bundle of ours, so it is not replaced ({reason}); move it away, or "
        "choose another place (NAME=... or OUT=...)"
    )


@contextmanager
def staging(final: Path, may_replace: publish.Check = read_former) -> Iterator[Path]:
    """A folder to write a bundle into; published, re-hashed, when the block ends without an error.

    ``may_replace`` raises where what stands at ``final`` must stay.
    """
    with publish.staging(final, may_replace, check_hashes) as folder:
        yield folder


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
    known = {a.path for a in manifest.artifacts} | {MANIFEST_FILE}
    present = (p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if not p.is_dir())
    changed += sorted(path for path in present if path not in known)
    if changed:
        raise GateError(
            f"{bundle}: {', '.join(changed)} differ from the manifest's SHA-256; "
            "copy the bundle again or rebuild it"
        )
    return manifest
