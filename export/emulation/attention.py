"""Fused attention with the accumulators of the compiled kernel.

Both of its products take their operands in the kernel's type (Half) and add up either in FP32, as
FlashAttention-2 does, or in Half. A tensor core's instruction multiplies exactly and adds 16
products to an accumulator, which is rounded once per instruction: with Half accumulators the
scores are rounded after every 16 channels, the weighted sum after every 16 keys. Softmax is in
FP32 either way, its weights are rounded to the kernel's type, their sum is not. The maximum is
taken over all keys at once, not block by block.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from export.emulation.products import Overflow

STEP = 16  # products that one instruction adds up
_SCORES = 1 << 20  # held at a time: 4 MiB in FP32, what a core's cache takes
_ROWS = 64  # but so many queries at least, each of 512 instructions at 8192 keys


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    kernel: torch.dtype,
    overflow: Overflow | None = None,
) -> Tensor:
    """``softmax(q·kᵀ/√d)·v``, all ``[batch, heads, sequence, d]``, in ``q``'s type.

    ``mask`` is True where a key counts, ``kernel`` the type of the kernel's operands. With
    ``overflow`` the accumulators are Half, and scores that overflow are counted in it.
    """
    # The scale is split over both operands, as ONNX's definition and the compiler do.
    factor = torch.tensor(1 / math.sqrt(math.sqrt(q.shape[-1])), dtype=q.dtype)
    dtype = q.dtype
    wide_q, wide_k, wide_v = (x.to(kernel).float() for x in (q * factor, k * factor, v))
    rows = max(_ROWS, _SCORES // (q.shape[0] * q.shape[1] * k.shape[2]))
    parts = [
        _rows(part, wide_k, wide_v, _mask_rows(mask, start, rows), kernel, overflow)
        for start, part in zip(
            range(0, q.shape[2], rows), torch.split(wide_q, rows, 2), strict=True
        )
    ]
    return torch.cat(parts, dim=2).to(kernel).to(dtype)


def _mask_rows(mask: Tensor | None, start: int, rows: int) -> Tensor | None:
    """The part of a mask for some queries; one row of it may be for all."""
    return mask if mask is None or mask.shape[-2] == 1 else mask[..., start : start + rows, :]


def _rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    kernel: torch.dtype,
    overflow: Overflow | None,
) -> Tensor:
    """Attention of some queries, all operands FP32 with values of the kernel's type."""
    half = overflow is not None
    scores = _product(q, k.transpose(-1, -2), half=half)
    if overflow is not None:
        overflow.add(scores, scores)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    scores = scores - scores.amax(-1, keepdim=True)
    weights = scores.exp_()
    total = weights.sum(-1, keepdim=True)
    return _product(weights.to(kernel).float(), v, half=half) / total


def _product(a: Tensor, b: Tensor, *, half: bool) -> Tensor:
    """``a @ b`` in FP32, or rounded to Half after every :data:`STEP` products."""
    if not half:
        return torch.matmul(a, b)
    total = torch.zeros(())
    for x, y in zip(torch.split(a, STEP, -1), torch.split(b, STEP, -2), strict=True):
        total = (total + torch.matmul(x, y)).half().float()
    return total
