"""The light runtime as a wheel for a device: ``runtimes`` without the HTTP server.

Written here, because the library that makes the project's own wheel is not there where a bundle is
built. A wheel is a zip file with three texts; tests have pip install it.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement

import runtimes

NAME = "adaptrt_runtime"
PYTHON = ">=3.10"  # JetPack 6's
# The server, what embeds a corpus, what needs PyTorch.
_LEFT_OUT = ("api", "corpus", "executors/torch_reference.py")
_WHEEL = "Wheel-Version: 1.0\nGenerator: adaptrt\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_DATE = (1980, 1, 1, 0, 0, 0)  # the same bytes today and tomorrow


def write_wheel(folder: Path) -> Path:
    """Write the wheel; its path. The same sources give the same bytes."""
    release = version("adaptrt")
    path = folder / f"{NAME}-{release}-py3-none-any.whl"
    information = f"{NAME}-{release}.dist-info"
    files = {
        **dict(_sources()),
        f"{information}/METADATA": _metadata(release).encode(),
        f"{information}/WHEEL": _WHEEL.encode(),
    }
    record = "".join(f"{name},{_digest(data)},{len(data)}\n" for name, data in files.items())
    files[f"{information}/RECORD"] = f"{record}{information}/RECORD,,\n".encode()
    with zipfile.ZipFile(path, "w") as archive:  # not compressed: versions of zlib differ
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return path


def _sources() -> Iterator[tuple[str, bytes]]:
    root = Path(str(runtimes.__file__)).parent
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not name.startswith(_LEFT_OUT):
            yield f"runtimes/{name}", path.read_bytes()


def _metadata(release: str) -> str:
    """What the project itself needs to run a bundle, without an executor."""
    stated = [text for text in requires("adaptrt") or () if Requirement(text).marker is None]
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {NAME.replace('_', '-')}",
        f"Version: {release}",
        "Summary: Runs adaptrt's bundles",
        "License: Apache-2.0",
        f"Requires-Python: {PYTHON}",
        *(f"Requires-Dist: {text}" for text in sorted(stated)),
    ]
    return "\n".join(lines) + "\n"


def _digest(data: bytes) -> str:
    raw = hashlib.sha256(data).digest()
    return "sha256=" + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
