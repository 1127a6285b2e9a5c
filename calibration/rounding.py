"""How weights are rounded to the steps of their scales.

A weight ``[K, N]`` that alone is quantised is stored as ``[N, K]``, the order in which MatMulNBits
of ONNX Runtime reads it: :func:`weight_scales` chooses the scales, clipped where that is best, and
:func:`stored_steps` the nearest numbers. :func:`learned_steps` takes the place of the nearest ones
in every scheme: it looks at what the GEMM reads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibration.quantise import Matrix, quantise, stored_scale
from runtimes.schemes import Storage

_CHANNELS = 64  # searched at a time, so that a part stays in the CPU's cache
_DAMPING = 0.01  # of the mean diagonal, as GPTQ's authors have it
_ROWS = 64  # whose errors are carried on together, by one product


def weight_scales(weight: Matrix, dtype: str, storage: Storage) -> NDArray[np.floating]:
    """The scales of ``[K, N]`` in ``dtype``: ``[N, K / block]``, or without blocks ``[N]``.

    Of ``storage.clips`` every block has the one with the least squared error. Raises
    :class:`ValueError` where K is no multiple of the block.
    """
    blocks = _blocks(weight, storage)
    parts = range(0, len(blocks), _CHANNELS)
    scales = np.concatenate(
        [_best_scales(blocks[start : start + _CHANNELS], dtype, storage) for start in parts]
    )
    return scales if storage.block is not None else scales[:, 0]


def wide_scales(scales: NDArray[np.floating], rows: int) -> NDArray[np.floating]:
    """:func:`weight_scales`' for each number of ``[K, N]``, ``rows`` of them: ``[K, N]``."""
    blocks = scales.reshape(len(scales), -1).T
    return np.repeat(blocks, rows // len(blocks), axis=0)


def stored_steps(
    weight: Matrix, scales: NDArray[np.floating], storage: Storage
) -> NDArray[np.generic]:
    """``[K, N]`` in the stored type, ``[N, K]``; ``scales`` are :func:`weight_scales`'."""
    blocks = _blocks(weight, storage)
    steps = quantise(blocks, scales.reshape(*blocks.shape[:2], 1), storage)
    return steps.reshape(len(blocks), -1)


def learned_steps(
    weight: Matrix, moment: NDArray[np.float64], scales: NDArray[np.floating], storage: Storage
) -> NDArray[np.generic]:
    """``[K, N]`` in the stored type, ``[K, N]``: each row makes up for the errors of those before.

    ``moment [K, K]`` is the mean of ``x xᵀ`` over what the GEMM multiplies, ``scales`` the weight's
    as they are stored, of a shape that broadcasts to ``[K, N]``. With ``moment = RᵀR``, R upper
    triangular, the product's squared error is ``|R (W - Q)|²``; rows are rounded from the last to
    the first, each to the nearest of ``W_j + Σ_{k>j} R_jk / R_jj (W_k - Q_k)``, those that are read
    with the greatest magnitudes first. That is GPTQ (Frantar et al. 2023) without its inverse, as
    Babai's nearest plane (Chen et al. 2025, "The Geometry of LLM Quantization").
    """
    order = np.argsort(moment.diagonal(), kind="stable")
    damping = _DAMPING * moment.diagonal().mean() or 1.0  # nothing is read: any rounding will do
    ordered = moment[np.ix_(order, order)] + damping * np.eye(len(moment))
    upper = np.linalg.cholesky(ordered).T
    upper = (upper / upper.diagonal()[:, None]).astype(np.float32)
    left, wide = weight[order], np.broadcast_to(scales, weight.shape).astype(np.float32)[order]
    errors = np.zeros_like(left)
    steps = np.empty(weight.shape, np.dtype(storage.dtype))
    for end in range(len(left), 0, -_ROWS):
        start = max(end - _ROWS, 0)
        carried = upper[start:end, end:] @ errors[end:]
        for row in reversed(range(start, end)):
            within = upper[row, row + 1 : end] @ errors[row + 1 : end]
            found = quantise(left[row] + carried[row - start] + within, wide[row], storage)
            errors[row] = left[row] - found.astype(np.float32) * wide[row]
            steps[order[row]] = found
    return steps


def rounded_weight(weight: Matrix, dtype: str, storage: Storage) -> Matrix:
    """What the stored numbers and scales make of ``weight [K, N]``, in FP32."""
    scales = weight_scales(weight, dtype, storage)
    steps = stored_steps(weight, scales, storage).astype(np.float32)
    blocks = steps.reshape(_blocks(weight, storage).shape)
    restored = blocks * scales.astype(np.float32).reshape(*blocks.shape[:2], 1)
    return np.ascontiguousarray(restored.reshape(steps.shape).T)


def _blocks(weight: Matrix, storage: Storage) -> Matrix:
    """``[N, K / block, block]``."""
    rows, columns = weight.shape
    block = storage.block or rows
    if rows % block:
        raise ValueError(f"a weight of {rows} rows cannot be cut into blocks of {block}")
    return np.ascontiguousarray(weight.T).reshape(columns, rows // block, block)


def _best_scales(blocks: Matrix, dtype: str, storage: Storage) -> NDArray[np.floating]:
    """One scale for each of ``[n, blocks, block]``."""
    largest = np.abs(blocks).max(axis=-1)
    best = stored_scale(largest * storage.clips[0], dtype, storage)
    if len(storage.clips) == 1:
        return best
    least = _errors(blocks, best, storage)
    for share in storage.clips[1:]:
        scales = stored_scale(largest * share, dtype, storage)
        errors = _errors(blocks, scales, storage)
        better = errors < least
        best, least = np.where(better, scales, best), np.where(better, errors, least)
    return best


def _errors(blocks: Matrix, scales: NDArray[np.floating], storage: Storage) -> Matrix:
    """The squared error of each block, ``[n, blocks]``."""
    wide = scales.astype(np.float32)[..., None]
    steps = quantise(blocks, wide, storage).astype(np.float32)
    errors: Matrix = np.square(steps * wide - blocks).sum(axis=-1)
    return errors
