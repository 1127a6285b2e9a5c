"""The arithmetic of stored types in NumPy: symmetric, zero point 0, as ONNX defines it.

``_ROUND`` has a row for each :attr:`runtimes.schemes.Storage.dtype`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ml_dtypes
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
    """The scales of ``[K, N]``: one per output channel ``[N]``, or one alone ``[]``."""
    axis = None if storage.weight_axis is None else 0
    return stored_scale(np.abs(weight).max(axis=axis), dtype, storage)


def magnitudes(storage: Storage) -> NDArray[np.float64]:
    """The absolute values that the stored type has up to its levels, ascending from 0."""
    patterns = np.arange(256, dtype=np.uint8).view(storage.dtype).astype(np.float64)
    known = np.unique(np.abs(patterns[np.isfinite(patterns)]))
    return known[known <= storage.levels]


def single_scale(
    weight: Matrix, dtype: str, storage: Storage
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """One scale of ``[K, N]`` for all channels, and each channel's share of it, ``[N]``, 0 to 1.

    Their product is a channel's own scale but for one rounding.
    """
    channels = weight_scale(weight, "float32", storage)
    scale = channels.max().astype(dtype)
    shares = channels / scale.astype(np.float32)
    return scale, np.maximum(shares, MIN_SCALE).astype(dtype)


def _to_int8(steps: Matrix) -> NDArray[np.int8]:
    """Ties to even; -128 is used only by what lies beyond the range."""
    return np.clip(np.rint(steps), -128, 127).astype(np.int8)


def _to_e4m3(steps: Matrix) -> NDArray[np.generic]:
    """Ties to even, saturated: the type has no infinity, and beyond 464 a cast gives NaN."""
    return np.clip(steps, -448, 448).astype(ml_dtypes.float8_e4m3fn)


def _to_int4(steps: Matrix) -> NDArray[np.generic]:
    """Ties to even; -8 is used only by what lies beyond the range."""
    return np.clip(np.rint(steps), -8, 7).astype(ml_dtypes.int4)


_ROUND: Mapping[str, Callable[[Matrix], NDArray[np.generic]]] = {
    "int8": _to_int8,
    "float8_e4m3fn": _to_e4m3,
    "int4": _to_int4,
}
