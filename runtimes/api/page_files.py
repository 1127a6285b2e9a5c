"""The page at ``/``: files of the package, read once."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

# What may lie in the folder; a file of another kind is not served.
MEDIA_TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
}
# Nothing of another host, nothing inline, nobody's frame.
SECURITY = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def page_files() -> dict[str, tuple[bytes, str]]:
    """Path → content and media type; ``index.html`` is ``/``."""
    found = {}
    folder = files("runtimes.api").joinpath("page")
    for file in sorted(folder.iterdir(), key=lambda f: f.name) if folder.is_dir() else ():
        media_type = MEDIA_TYPES.get("." + file.name.rpartition(".")[2])
        if media_type is not None and file.is_file():
            path = "/" if file.name == "index.html" else f"/{file.name}"
            found[path] = (file.read_bytes(), media_type)
    return found
