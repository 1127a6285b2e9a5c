"""Where a checkpoint comes from: the embedded sample, a local folder or a hub id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from runtimes.errors import InputError, shown

SAMPLE = Path(__file__).parents[1] / "sample"
SAMPLE_NAME = "sample"
# Without "--" and "..", as on the hub: the name of a folder then stands for one id.
_HUB_ID = re.compile(r"(?!.*(--|\.\.))\w[\w.-]*/\w[\w.-]*", re.ASCII)
_LICENCE = re.compile(r"^license: *[\"']?([A-Za-z0-9_.+-]{1,64})(?![\w.+-])", re.MULTILINE)


@dataclass(frozen=True)
class Source:
    """A checkpoint on this disk.

    ``name`` is the folder that its bundles are put under: ``owner--name`` for a hub id, as in the
    hub's cache. ``licence`` is what its README states, else None.
    """

    folder: Path
    name: str
    revision: str | None
    licence: str | None


def resolve(model: str, revision: str | None) -> Source:
    """A folder, or a download of ``owner/name`` at ``revision`` (a hub id is the only network use).

    Raises :class:`InputError` where neither can be had.
    """
    if _is_folder(model):
        folder = Path(model).expanduser()
        return Source(folder, _folder_name(folder), revision, _stated_licence(folder))
    if not _HUB_ID.fullmatch(model):
        raise InputError(
            f"MODEL: {shown(model)} is neither a folder nor a hub id, expected for example "
            "MODEL=jinaai/jina-embeddings-v3 or MODEL=/path/to/checkpoint"
        )
    from export.checkpoint.hub import fetch

    folder = fetch(model, revision)
    return Source(folder, model.replace("/", "--"), folder.name, _stated_licence(folder))


def _is_folder(model: str) -> bool:
    try:
        return Path(model).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, a user who is not there
        return False


def _folder_name(folder: Path) -> str:
    """What the folder's bundles are put under."""
    path = folder.resolve()
    if path == SAMPLE.resolve():
        return SAMPLE_NAME
    if not path.name.isprintable() or path.name.startswith(".") or not path.name:
        raise InputError(
            f"MODEL: the folder {shown(str(path))} has a name that its bundles cannot be put "
            "under, expected printable characters and no dot in front; rename it"
        )
    return path.name


def _stated_licence(folder: Path) -> str | None:
    readme = folder / "README.md"
    if not readme.is_file():
        return None
    with readme.open(encoding="utf-8", errors="replace") as stream:
        match = _LICENCE.search(stream.read(4096))
    return match[1] if match else None
