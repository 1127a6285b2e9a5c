"""What a model is: one hash of every file that shapes its vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from export.checkpoint.reader import Checkpoint
from export.checkpoint.tensors import SafetensorFiles
from runtimes.errors import InputError
from runtimes.files import sha256


def model_sha256(checkpoint: Checkpoint) -> str:
    """Hex SHA-256 of the JSON list of ``[name, SHA-256]``, sorted, of what the readers read.

    That is config.json, tokenizer.json and the weights; every published adapter in a folder of its
    own and its configuration; and those of the user's own adapter. Names are relative to the
    checkpoint's folder (``own/…`` for the user's), so the folder's place does not matter.
    """
    hashes = sorted([name, sha256(path)] for name, path in _files(checkpoint))
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def _files(checkpoint: Checkpoint) -> Iterator[tuple[str, Path]]:
    folder = checkpoint.folder
    for name in ("config.json", "tokenizer.json"):
        yield name, folder / name
    for path in _tensor_files(checkpoint.files, folder / "model.safetensors"):
        yield path.name, path
    for adapter in checkpoint.published_folders:
        yield from _adapter_files(adapter.name, adapter)
    if checkpoint.adapter_path is not None:
        yield from _adapter_files("own", checkpoint.adapter_path)


def _adapter_files(label: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Nothing of an adapter that cannot be opened: it shapes no vector, asking for it fails."""
    config = folder / "adapter_config.json"
    with suppress(InputError):
        files = SafetensorFiles(folder, "adapter_model")
        for path in (config, *_tensor_files(files, folder / "adapter_model.safetensors")):
            if path.is_file():
                yield f"{label}/{path.name}", path


def _tensor_files(files: SafetensorFiles, single: Path) -> Iterator[Path]:
    yield from files.paths
    if single not in files.paths:
        yield single.with_name(f"{single.name}.index.json")
