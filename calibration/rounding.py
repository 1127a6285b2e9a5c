"""How a weight that alone is quantised is rounded: to the nearest step, clipped where that is best.

A weight ``[K, N]`` is stored as ``[N, K]``, the order in which MatMulNBits of ONNX Runtime reads
it. :func:`weight_scales` chooses the scales and :func:`stored_steps` the numbers; another rounding,
one that looks at what the GEMM reads, takes the place of the second.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibration.quantise import Matrix, quantise, stored_scale
from runtimes.schemes import Storage

_CHANNELS = 64  # searched at a time, so that a part stays in the CPU's cache


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


def stored_steps(
    weight: Matrix, scales: NDArray[np.floating], storage: Storage
) -> NDArray[np.generic]:
    """``[K, N]`` in the stored type, ``[N, K]``; ``scales`` are :func:`weight_scales`'."""
    blocks = _blocks(weight, storage)
    steps = quantise(blocks, scales.reshape(*blocks.shape[:2], 1), storage)
    return steps.reshape(len(blocks), -1)


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
