"""Reading small files from folders we do not trust; hashing and sharing large ones."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtimes.errors import InputError
from runtimes.temporary import temporary_file

MAX_JSON_BYTES = 64 << 20  # XLM-RoBERTa's tokenizer.json is 17 MB
MAX_CONFIG_BYTES = 1 << 20  # configurations are a few KB, the index of shards some 100 KB
_BLOCK = 4 << 20


def check_regular(path: Path) -> int:
    """The size of the regular file at ``path``; :class:`InputError` for anything else.

    Links are followed, because a hub's cache is made of them. Devices, FIFOs and sockets are
    refused before they are opened: reading one can wait or go on for ever.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "device")
        raise InputError(f"{path}: is a {kind}, expected a regular file or a link to one")
    return status.st_size


_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}


def read_json(path: Path, most: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in ``path``, a regular file of at most so many bytes."""
    try:
        value = json.loads(read_small(path, most).decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); download the file again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: got a JSON {type(value).__name__}, expected an object")
    return value


def read_small(path: Path, most: int = MAX_JSON_BYTES) -> bytes:
    """The bytes of a JSON file; :class:`InputError` where there is none or it is too large."""
    size = check_regular(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(most + 1) if size <= most else b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if (size := max(size, len(content))) > most:  # files of /proc state 0 bytes
        raise InputError(f"{path}: {size} bytes, expected at most {most}")
    return content


def sha256(path: Path) -> str:
    """Hex SHA-256 of a regular file's bytes."""
    check_regular(path)
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def flush(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file beside ``path`` to write to; the file takes its place when the block ends well.

    Whatever ends the block early, what stood at ``path`` stays. Raises :class:`InputError` at once
    where that is anything but a file: a folder or a link is never replaced.
    """
    require_file_place(path)
    with temporary_file(path.parent, f".{path.name}.") as staged:
        yield staged
        flush(staged)
        require_file_place(path)
        staged.replace(path)
        flush(path.parent)


def require_file_place(path: Path) -> None:
    """:class:`InputError` unless a file may be written here: nothing or a plain file is there."""
    above = next(p for p in path.absolute().parents if os.path.lexists(p))
    if not above.is_dir():
        raise InputError(f"cannot write {path}: {above} is no folder; move it away")
    if not os.path.lexists(path) and not os.access(above, os.W_OK | os.X_OK):
        raise InputError(
            f"cannot write {path}: {above} is read-only; name another place, or make it writable"
        )
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        what = "a link" if path.is_symlink() else "no file"
        raise InputError(
            f"{path} is {what}, expected a file or nothing at that place; move it away"
        )


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system cannot link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
