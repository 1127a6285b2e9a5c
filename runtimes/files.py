"""Reading small files from folders we do not trust; hashing and sharing large ones."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from runtimes.errors import InputError

MAX_JSON_BYTES = 64 << 20  # XLM-RoBERTa's tokenizer.json is 17 MB; configurations are a few KB
_BLOCK = 4 << 20


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; its size is checked before it is read."""
    raw = read_small(path)
    try:
        value = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); download the file again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: got a JSON {type(value).__name__}, expected an object")
    return value


def read_small(path: Path) -> bytes:
    """A JSON file's bytes; :class:`InputError` where there is none or it is too large for one."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if (size := path.stat().st_size) > MAX_JSON_BYTES:
        raise InputError(f"{path}: {size} bytes, expected at most {MAX_JSON_BYTES} for a JSON file")
    return path.read_bytes()


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system cannot link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
