"""Lazy, checked reading of safetensors: one tensor, or some of its rows, at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy, which safetensors then uses)
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from runtimes.errors import InputError
from runtimes.files import read_json

FLOATS = {"F32", "F16", "BF16"}


class SafetensorFiles:
    """The tensors of ``<stem>.safetensors``, or of the shards its index names.

    Opening reads headers only. The safetensors library checks every header against the file's
    size, so a truncated file is refused before any tensor is read.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        self._handles: dict[str, tuple[Path, Any]] = {}
        for path in _shards(folder, stem):
            with _as_input_error(path):
                handle: Any = safe_open(path, framework="np")
                for key in handle.keys():  # noqa: SIM118  (a safetensors handle is not a dict)
                    if key in self._handles:
                        raise InputError(f"{path}: tensor {key} stands in two shards")
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
                raise InputError(f"{path}: {name} is {dtype}, expected one of {sorted(FLOATS)}")
            return tuple(view.get_shape())

    def read(self, name: str, index: int | slice = slice(None)) -> NDArray[np.float32]:
        """``tensor[index]`` as FP32 (exact from BF16 and FP16); refuses NaN and infinity."""
        path, handle = self._handles[name]
        with _as_input_error(path):
            value = np.asarray(handle.get_slice(name)[index]).astype(np.float32)
        if not np.isfinite(value).all():
            raise InputError(
                f"{path}: {name} holds NaN or infinity, expected finite numbers; "
                "download or save the checkpoint again"
            )
        return value


@contextmanager
def _as_input_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: not a complete safetensors file ({error}); download or save it again"
        ) from error


def _shards(folder: Path, stem: str) -> list[Path]:
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        others = sorted(p.name for p in folder.glob("*.bin"))
        hint = f" (found {', '.join(others)}: pickle files are never read)" if others else ""
        raise InputError(f"{single}: no such file{hint}; convert the checkpoint to safetensors")
    weight_map = read_json(index).get("weight_map")
    names = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
    if not names:
        raise InputError(f"{index}: weight_map is empty, expected tensor names and their files")
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(f"{index}: {name!r} is not the plain name of a safetensors file")
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: no such file, but {index.name} names it")
    return [folder / name for name in names]
