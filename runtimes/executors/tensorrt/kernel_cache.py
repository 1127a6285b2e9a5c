"""Kernels that TensorRT-RTX compiled for an engine, kept in a file for the next process.

TensorRT-RTX compiles on the GPU, for every shape, when that is first run. One file per engine,
GPU and release lies in the user's cache folder, never in a bundle, whose files do not change. It
only saves time: where it cannot be read, is of another machine, or cannot be written, kernels are
compiled as if there were none. Of processes that write at once, the last one's file stays.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from pathlib import Path
from typing import Any

from runtimes.errors import InputError
from runtimes.files import read_small, replacing

log = logging.getLogger("adaptrt")
_MOST = 1 << 30  # bytes that are read; kernels are small, a file of more is none of ours
_DIGEST = hashlib.sha256().digest_size  # the file begins with the SHA-256 of the rest


def cache_path(engine_sha256: str, gpu: str, release: str) -> Path | None:
    """The file for an engine on a GPU (by its name) and a TensorRT-RTX release.

    Under ``$XDG_CACHE_HOME/adaptrt``, or ``~/.cache/adaptrt``; None where there is no home.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # unset, or to be ignored according to the XDG specification
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            return None
    gpu, release = (re.sub(r"[^A-Za-z0-9.]+", "-", text) for text in (gpu, release))
    return base / "adaptrt" / "tensorrt_rtx" / f"{engine_sha256[:32]}-{gpu}-{release}.kernels"


class KernelCache:
    """A runtime configuration's cache of kernels and its file."""

    def __init__(self, config: Any, path: Path) -> None:
        """Give ``config`` a cache with what the file holds."""
        self._path: Path | None = path
        self._known = _read(path)
        self._shapes = self._saved = 0
        self._cache = config.create_runtime_cache()
        if self._cache is None:
            return self._give_up("TensorRT-RTX made no cache")
        if self._known and not self._cache.deserialize(self._known):
            self._known = b""
            log.warning(
                "%s: TensorRT-RTX does not take these kernels (of another driver or GPU?); they "
                "are compiled again",
                path,
            )
        if not config.set_runtime_cache(self._cache):
            self._give_up("TensorRT-RTX refused the cache")
        return None

    def count_shape(self) -> None:
        """A shape has run for the first time.

        The file is written after 1, 2, 4, 8, … shapes: a process that is killed loses little, and
        writing costs little.
        """
        self._shapes += 1
        if self._shapes & (self._shapes - 1) == 0:
            self.save()

    def save(self) -> None:
        """Write the file, if shapes were compiled since it was read or written."""
        if self._path is None or self._saved == self._shapes:
            return
        self._saved = self._shapes
        kernels = self._cache.serialize()
        if kernels is None:
            self._give_up("TensorRT-RTX does not give its kernels")
        elif (data := bytes(kernels)) != self._known:
            self._write(self._path, data)

    def _write(self, path: Path, data: bytes) -> None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # what it holds is executed
            with replacing(path) as staged:
                staged.write_bytes(hashlib.sha256(data).digest() + data)
        except (InputError, OSError) as error:
            self._give_up(str(error))
        else:
            self._known = data

    def _give_up(self, reason: str) -> None:
        log.warning("%s: kernels are not kept for other processes: %s", self._path, reason)
        self._path = None


def _read(path: Path) -> bytes:
    """The kernels in a file; none where there is no file, or no sound one."""
    if not os.path.lexists(path):
        return b""
    try:
        content = read_small(path, _MOST)
    except InputError as error:
        log.warning("%s; kernels are compiled again", error)
        return b""
    digest, data = content[:_DIGEST], content[_DIGEST:]
    if hashlib.sha256(data).digest() != digest:
        log.warning("%s: damaged; kernels are compiled again", path)
        return b""
    return data
