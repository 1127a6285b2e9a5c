"""Temporary files and folders that do not outlive a killed process for long.

Each has a name with a token of its own and a lock, which its process holds while it lives. A lock
that can be taken is a dead process's: the next one that makes a temporary thing of that kind clears
it away. Process ids could not tell: containers that share a volume have the same ones.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runtimes.signals import held_back

_TOKEN = "[0-9a-f]{16}"


@contextmanager
def temporary_file(folder: Path, prefix: str, suffix: str = "") -> Iterator[Path]:
    """An empty file in ``folder`` to write to; gone after the block, unless it was renamed.

    Its name is ``prefix``, 16 hexadecimal digits and ``suffix``; those that nobody holds any more
    are removed first.
    """
    _clear_dead(folder, prefix, suffix)
    with held_back() as hold:
        path, handle = _claim(folder, prefix, suffix)
        try:
            with hold.allowed():
                yield path
        finally:
            with suppress(OSError):  # gone after success; its folder may not even be one
                path.unlink()
            os.close(handle)


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """An empty folder of this user's where temporary files go; gone after the block."""
    base = Path(tempfile.gettempdir())
    _clear_dead(base, prefix, "")
    with held_back() as hold:
        path, handle = _claim(base, prefix, None)
        try:
            with hold.allowed():
                yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(handle)


def _claim(folder: Path, prefix: str, suffix: str | None) -> tuple[Path, int]:
    """A new file, or without a suffix a new folder, and the handle that its lock is held by."""
    while True:
        path = folder / f"{prefix}{secrets.token_hex(8)}{suffix or ''}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        if suffix is None:
            path.mkdir(mode=0o700)
            flags = os.O_RDONLY
        try:
            handle = os.open(path, flags, 0o666)
        except FileNotFoundError:
            if suffix is None:  # cleared away by another before it could be locked
                continue
            raise
        # Where there are no locks, nobody takes it away either.
        if _lock(handle) is not False and _is_at(handle, path):
            return path, handle
        os.close(handle)


def _clear_dead(folder: Path, prefix: str, suffix: str) -> None:
    name = re.compile(f"{re.escape(prefix)}{_TOKEN}{re.escape(suffix)}")
    with suppress(OSError):  # one that cannot be read: making the new file says so
        for path in [p for p in folder.iterdir() if name.fullmatch(p.name)]:
            with suppress(OSError):  # another user's, or another process was first
                _clear(path)


def _clear(path: Path) -> None:
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if os.fstat(handle).st_uid != os.geteuid() or not _lock(handle):
            return
        if _is_at(handle, path):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        os.close(handle)


def _lock(handle: int) -> bool | None:
    """Whether the lock was free; None where there are no locks."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False
