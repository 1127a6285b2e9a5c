"""The two figures of a comparison: signal to noise, and cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

EQUAL = 1e-12  # of 1 - cosine: less is FP64's own rounding
_ROWS = 1024
MOST, LEAST = 200.0, -200.0  # dB: equal to the last bit, and not finite


@dataclass(frozen=True)
class Agreement:
    """How close a block's output is to the reference's.

    ``snr`` in dB: 10·log10(Σ reference² / Σ difference²), at most 200, -200 where a value is not
    finite. ``cosine`` of both outputs as one vector each.
    """

    snr: float
    cosine: float

    @property
    def error(self) -> float:
        """``1 - cosine``, 0 to 2."""
        return max(1 - self.cosine, 0.0)


def decibels(signal: float, noise: float) -> float:
    """``10·log10(signal / noise)``, between -200 and 200."""
    if not (math.isfinite(signal) and math.isfinite(noise)):
        return LEAST
    if noise <= 0:
        return MOST
    if signal <= 0:
        return LEAST
    return min(max(10 * math.log10(signal / noise), LEAST), MOST)


def agreement(reference: Tensor, engine: Tensor) -> Agreement:
    """Of two outputs of one shape; sums in FP64, some rows at a time."""
    signal = noise = size = product = 0.0
    for rows, others in zip(*(torch.split(x, _ROWS) for x in (reference, engine)), strict=True):
        wide, other = rows.double(), others.double()
        signal += float(wide.square().sum())
        noise += float((other - wide).square().sum())
        size += float(other.square().sum())
        product += float((wide * other).sum())
    length = math.sqrt(signal) * math.sqrt(size) if math.isfinite(size) else math.inf
    cosine = product / length if 0 < length < math.inf else 0.0
    return Agreement(snr=decibels(signal, noise), cosine=cosine)
