"""The arithmetic of stored types in NumPy: symmetric, zero point 0, as ONNX defines it.

``_ROUND`` has a row for each :attr:`runtimes.schemes.Storage.dtype`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from runtimes.schemes import Storage

Matrix = NDArray[np.float32]
# A dead channel's range is 0; below this, FP16, in which scales may be stored, loses precision.
MIN_SCALE = float(np.finfo(np.float16).tiny)


def stored_scale(amplitude: float | Matrix, dtype: str, storage: Storage) -> NDArray[np.floating]:
    """``amplitude / levels`` in the type it is stored in, never below the least normal FP16."""
    return np.maximum(np.asarray(amplitude) / storage.levels, MIN_SCALE).astype(dtype)


def quantise(values: Matrix, scale: NDArray[np.floating], storage: Storage) -> NDArray[np.generic]:
    """``values / scale`` rounded to the stored type, saturated."""
    steps: Matrix = np.divide(values, scale.astype(np.float32), dtype=np.float32)
    return _ROUND[storage.dtype](steps)


def fake_quantise(values: Matrix, scale: NDArray[np.floating], storage: Storage) -> Matrix:
    """What the stored type leaves of ``values``, in FP32."""
    steps = quantise(values, scale, storage).astype(np.float32)
    restored: Matrix = steps * scale.astype(np.float32)
    return restored


def weight_scale(weight: Matrix, dtype: str, storage: Storage) -> NDArray[np.floating]:
    """One scale per output channel of ``[K, N]``."""
    return stored_scale(np.abs(weight).max(axis=0), dtype, storage)


def _to_int8(steps: Matrix) -> NDArray[np.int8]:
    """Ties to even; -128 is used only by what lies beyond the range."""
    return np.clip(np.rint(steps), -128, 127).astype(np.int8)


_ROUND: Mapping[str, Callable[[Matrix], NDArray[np.generic]]] = {"int8": _to_int8}
