"""SmoothQuant (Xiao et al. 2023): moves outliers of a GEMM's input channels into its weight.

``x·W = (x / s)·(s ⊙ W)`` with ``s_k = max|x_k|^alpha / max|W_k|^(1 - alpha)``. The division is a
Mul on the GEMM's own branch: in a post-norm encoder the residual sum reads the same tensor and
must not see it. Alpha is searched per GEMM against the error of the GEMM's own output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from calibration.quantise import Matrix, fake_quantise, stored_scale, weight_scale
from runtimes.schemes import Storage

ALPHAS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7)
_GAIN = 0.95
_LEAST = 1e-5  # a channel that is always zero, or that no weight reads


def input_factors(channel_max: Matrix, weight: Matrix, alpha: float, dtype: str) -> Matrix:
    """``1 / s``, FP32 ``[K]``, as it is stored in ``dtype``; ``weight`` is ``[K, N]``.

    Scaled to a geometric mean of 1, so that neither side leaves FP16's range, and exactly 1 at
    alpha 0.
    """
    if alpha == 0:
        return np.ones_like(channel_max)
    reads = np.maximum(np.abs(weight).max(axis=1), _LEAST)
    logs = (1 - alpha) * np.log(reads) - alpha * np.log(np.maximum(channel_max, _LEAST))
    factors: Matrix = np.exp(logs - logs.mean()).astype(dtype).astype(np.float32)
    return factors


@dataclass(frozen=True)
class Choice:
    """A GEMM's best setting: alpha, the smoothed input's amplitude, the relative output error."""

    alpha: float
    amplitude: float
    error: float


def choose_alpha(
    rows: Matrix,
    weight: Matrix,
    channel_max: Matrix,
    amplitude_of: Callable[[Matrix], float],
    storage: Storage,
    *,
    dtype: str = "float32",
    alphas: Sequence[float] = ALPHAS,
) -> Choice:
    """The alpha with the least output error on ``rows [n, K]``, samples of the GEMM's input.

    ``amplitude_of(factors)`` gives the clipping amplitude of the smoothed input. Smoothing is off
    (alpha 0, the first of ``alphas``) unless it takes away a twentieth of the error.
    """
    exact = rows @ weight
    norm = float(np.square(exact).sum()) or 1.0
    choices = []
    for alpha in alphas:
        factors = input_factors(channel_max, weight, alpha, dtype)
        amplitude = amplitude_of(factors)
        error = np.square(
            quantised_product(rows, weight, factors, amplitude, storage, dtype) - exact
        ).sum()
        choices.append(Choice(alpha, amplitude, float(np.sqrt(float(error) / norm))))
    best = min(choices, key=lambda choice: choice.error)
    return best if best.error < _GAIN * choices[0].error else choices[0]


def quantised_product(
    rows: Matrix,
    weight: Matrix,
    factors: Matrix,
    amplitude: float,
    storage: Storage,
    dtype: str = "float32",
) -> Matrix:
    """What the quantised GEMM gives for ``rows``, with scales stored in ``dtype``."""
    x = fake_quantise(rows * factors, stored_scale(amplitude, dtype, storage), storage)
    smoothed = weight / factors[:, None]
    product: Matrix = x @ fake_quantise(smoothed, weight_scale(smoothed, dtype, storage), storage)
    return product
