"""Shapes made to repeat: calls are padded to sizes of a grid, and the padding is cut off again.

A CUDA graph and a kernel that TensorRT-RTX compiles are of one shape. Lengths of texts are free, so
without a grid hardly a shape would come twice. Padding changes no vector but for rounding: more
tokens have mask 0, and more rows (or chunks) are copies of the last one, which give what it gives.
Rows of mask 0 would do for the model too, but their mean is 0/0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.arrays import Arrays
from runtimes.profiles import Profile, Shape
from runtimes.tensors import BATCH, SEQUENCE, Axis, Tensor
from runtimes.text.batching import GPU

# Tokens of a call whose time is not its launches'. Predicted: the large model does 4096 tokens in
# about 12 ms on an A100, its 228 launches take 0.6 ms of host time, which passes while kernels run.
GRAPH_TOKENS = 4096
Sizes = Mapping[Axis, int]


def step_up(size: int, steps: int, least: int = 1) -> int:
    """The smallest grid size that holds ``size``: so many per power of two, multiples of ``least``.

    >>> [step_up(n, 2) for n in (1, 2, 3, 4, 5, 7, 9, 13)]
    [1, 2, 3, 4, 6, 8, 12, 16]
    """
    octave = 1 << max(0, (size - 1).bit_length() - 1)
    step = max(least, octave // steps)
    return -(-size // step) * step


def grid_shape(shape: Shape, profile: Profile, *, compiles: bool) -> Shape:
    """(batch, tokens) that a call of ``shape`` is padded to, within its profile.

    Padding may cost as many tokens as a call costs beside them (:data:`GPU`), since that is what
    a graph can save. Where every shape is compiled (``compiles``), lengths are rounded in any
    case, by at most an eighth: 64 lengths up to 8192 instead of 8192.
    """
    rows, tokens = shape
    wide = min(step_up(rows, 2), profile.max[0])
    long = min(step_up(tokens, 8, 8), profile.max[1])
    for candidate in ((wide, long), (rows, long)):
        if candidate[0] * candidate[1] - rows * tokens <= GPU.call_tokens:
            return candidate
    return (rows, long) if compiles else shape


def grid_sizes(sizes: Sizes, limits: Sizes, profile: Profile, *, compiles: bool) -> Sizes:
    """:func:`grid_shape` of a call's axes; other axes (chunks) go up to two sizes per octave."""
    rows, tokens = grid_shape((sizes[BATCH], sizes[SEQUENCE]), profile, compiles=compiles)
    others = {axis: min(step_up(n, 2), limits[axis]) for axis, n in sizes.items() if n}
    return {**others, BATCH: rows, SEQUENCE: tokens}


def pad_inputs(tensors: Sequence[Tensor], arrays: Arrays, sizes: Sizes) -> Arrays:
    """Every array with its axes at ``sizes``: zeros as tokens, the last row or chunk again."""
    axes = {tensor.name: tensor.axes for tensor in tensors}
    return {name: _pad(array, axes[name], sizes) for name, array in arrays.items()}


def cut_outputs(tensors: Sequence[Tensor], arrays: Arrays, sizes: Sizes) -> Arrays:
    """Every array without what padding added to the axes of ``sizes``."""
    axes = {tensor.name: tensor.axes for tensor in tensors}
    return {
        name: array[tuple(slice(sizes.get(axis)) for axis in axes[name])]
        for name, array in arrays.items()
    }


def _pad(array: NDArray[Any], axes: Sequence[Axis], sizes: Sizes) -> NDArray[Any]:
    """Written out, because ``numpy.pad`` itself takes long beside a short call."""
    shape = [sizes.get(axis, n) for axis, n in zip(axes, array.shape, strict=True)]
    if shape == list(array.shape):
        return array
    padded = np.zeros(shape, array.dtype)
    padded[tuple(slice(n) for n in array.shape)] = array
    for place, (axis, n) in enumerate(zip(axes, array.shape, strict=True)):
        if axis != SEQUENCE:
            before = (slice(None),) * place
            added, last = (*before, slice(n, None)), (*before, slice(n - 1, n))
            padded[added] = padded[last]
    return padded
