"""INT8 arithmetic in NumPy: symmetric, zero point 0, ties to even, as ONNX defines it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
LEVELS = 127  # symmetric: -128 is used only by what lies beyond the range
# A dead channel's range is 0; below this, FP16, in which scales may be stored, loses precision.
MIN_SCALE = float(np.finfo(np.float16).tiny)


def stored_scale(amplitude: float | Matrix, dtype: str) -> NDArray[np.floating]:
    """``amplitude / 127`` in the type it is stored in, never below the least normal FP16."""
    return np.maximum(np.asarray(amplitude) / LEVELS, MIN_SCALE).astype(dtype)


def quantise(values: Matrix, scale: NDArray[np.floating]) -> NDArray[np.int8]:
    """``round(values / scale)``, saturated."""
    steps = np.rint(values / scale.astype(np.float32))
    return np.clip(steps, -LEVELS - 1, LEVELS).astype(np.int8)


def fake_quantise(values: Matrix, scale: NDArray[np.floating]) -> Matrix:
    """What INT8 leaves of ``values``, in FP32."""
    restored: Matrix = quantise(values, scale).astype(np.float32) * scale.astype(np.float32)
    return restored


def weight_scale(weight: Matrix, dtype: str) -> NDArray[np.floating]:
    """One scale per output channel of ``[K, N]``."""
    return stored_scale(np.abs(weight).max(axis=0), dtype)
