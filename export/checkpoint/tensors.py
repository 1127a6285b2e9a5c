"""Lazy, checked reading of safetensors: one tensor, or some of its rows, at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy, which safetensors then uses)
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from runtimes.errors import InputError, one_line, shown
from runtimes.files import MAX_CONFIG_BYTES, check_regular, read_json

FLOATS = {"F32", "F16", "BF16"}
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.safetensors")
_MOST_SHARDS = 256  # each stays mapped; processes may open 1024 files
_MOST_HEADER = 8 << 20  # bytes; the published model's header has some 100 KB
_PLAIN = re.compile(r"[A-Za-z0-9_.#-]{1,120}")


class SafetensorFiles:
    """The tensors of ``<stem>.safetensors``, or of the shards its index names.

    Opening reads headers only. The safetensors library checks every header against the file's
    size, so a truncated file is refused before any tensor is read.
    """

    def __init__(self, folder: Path, stem: str, *, sharded: bool = True) -> None:
        self._handles: dict[str, tuple[Path, Any]] = {}
        for path in _files(folder, stem, sharded=sharded):
            _check_header(path)
            with _as_input_error(path):
                handle: Any = safe_open(path, framework="np")
                for key in handle.keys():  # noqa: SIM118  (a safetensors handle is not a dict)
                    if key in self._handles:
                        raise InputError(f"{path}: tensor {plain(key)} stands in two shards")
                    self._handles[key] = (path, handle)

    @property
    def names(self) -> set[str]:
        """Every tensor's name."""
        return set(self._handles)

    @property
    def paths(self) -> list[Path]:
        """The files that hold tensors."""
        return sorted({path for path, _ in self._handles.values()})

    def path(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._handles[name][0]

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape; refuses anything but 16- and 32-bit floats."""
        path, handle = self._handles[name]
        with _as_input_error(path):
            view = handle.get_slice(name)
            if (dtype := view.get_dtype()) not in FLOATS:
                raise InputError(
                    f"{path}: {plain(name)} is {dtype}, expected one of {sorted(FLOATS)}"
                )
            return tuple(view.get_shape())

    def read(self, name: str, index: int | slice = slice(None)) -> NDArray[np.float32]:
        """``tensor[index]`` as FP32 (exact from BF16 and FP16); refuses NaN and infinity."""
        path, handle = self._handles[name]
        with _as_input_error(path):
            value = np.asarray(handle.get_slice(name)[index]).astype(np.float32)
        if not np.isfinite(value).all():
            raise InputError(
                f"{path}: {plain(name)} holds NaN or infinity, expected finite numbers; "
                "download or save the checkpoint again"
            )
        return value


@contextmanager
def _as_input_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: not a complete safetensors file ({one_line(str(error))[:200]}); "
            "download or save it again"
        ) from error


def plain(name: str) -> str:
    """A tensor's name for a message: quoted, escaped and shortened where it is unusual."""
    return name if _PLAIN.fullmatch(name) else shown(name)


def _check_header(path: Path) -> None:
    """The library would read a header of up to 100 MB, which may name a million tensors."""
    with _as_input_error(path), path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
    if size > _MOST_HEADER:
        raise InputError(
            f"{path}: not a complete safetensors file (a header of {size} bytes, expected at most "
            f"{_MOST_HEADER}); download or save it again"
        )


def _files(folder: Path, stem: str, *, sharded: bool) -> list[Path]:
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if os.path.lexists(single):
        check_regular(single)
        return [single]
    if not sharded or not os.path.lexists(index):
        others = [plain(p.name) for p in sorted(folder.glob("*.bin"))[:3]]
        hint = f" (found {', '.join(others)}: pickle files are never read)" if others else ""
        raise InputError(f"{single}: no such file{hint}; convert the checkpoint to safetensors")
    return _shards(folder, index)


def _shards(folder: Path, index: Path) -> list[Path]:
    weight_map = read_json(index, MAX_CONFIG_BYTES).get("weight_map")
    values = weight_map.values() if isinstance(weight_map, dict) else ()
    names = sorted({value if isinstance(value, str) else shown(value) for value in values})
    if not 1 <= len(names) <= _MOST_SHARDS:
        raise InputError(
            f"{index}: weight_map names {len(names)} files, expected tensor names and their files, "
            f"1 to {_MOST_SHARDS}"
        )
    for name in names:
        if not _SHARD.fullmatch(name):
            raise InputError(f"{index}: {shown(name)} is not the plain name of a safetensors file")
        if not os.path.lexists(folder / name):
            raise InputError(f"{folder / name}: no such file, but {index.name} names it")
        check_regular(folder / name)
    return [folder / name for name in names]
