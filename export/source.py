"""Where a checkpoint comes from: the embedded sample, a local folder or a hub id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from runtimes.errors import InputError

SAMPLE = Path(__file__).parent / "sample"
SAMPLE_NAME = "sample"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Weights, configuration and tokenizer: nothing that could be executed, no pickle, no ONNX.
_WANTED = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json",
           "tokenizer_config.json", "README.md", "*/adapter_config.json",
           "*/adapter_model.safetensors"]  # fmt: skip
_LICENCE = re.compile(r"^license: *[\"']?([A-Za-z0-9_.+-]{1,64})(?![\w.+-])", re.MULTILINE)


@dataclass(frozen=True)
class Source:
    """A checkpoint on this disk. ``licence`` is what its README states, else None."""

    folder: Path
    name: str
    revision: str | None
    licence: str | None


def resolve(model: str, revision: str | None) -> Source:
    """A folder, or a download of ``owner/name`` at ``revision`` (a hub id is the only network use).

    Raises :class:`InputError` where neither can be had.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        name = SAMPLE_NAME if folder.resolve() == SAMPLE.resolve() else folder.resolve().name
        return Source(folder, name, revision, _stated_licence(folder))
    if not _HUB_ID.fullmatch(model):
        raise InputError(
            f"MODEL: {model!r} is neither a folder nor a hub id, expected for example "
            "MODEL=jinaai/jina-embeddings-v3 or MODEL=/path/to/checkpoint"
        )
    folder = _download(model, revision)
    # The hub's cache names a snapshot by its commit.
    return Source(folder, model.rpartition("/")[2], folder.name, _stated_licence(folder))


def _download(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=_WANTED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"MODEL: cannot get {model} from the hub ({reason}); check the name, REVISION and the "
            "network, or download it elsewhere and give MODEL=/path/to/the/folder"
        ) from error


def _stated_licence(folder: Path) -> str | None:
    readme = folder / "README.md"
    if not readme.is_file():
        return None
    with readme.open(encoding="utf-8", errors="replace") as stream:
        match = _LICENCE.search(stream.read(4096))
    return match[1] if match else None
