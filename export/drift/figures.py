"""The two figures of a comparison: signal to noise, and cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

EQUAL = 1e-12  # of 1 - cosine: less is FP64's own rounding
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
    """Of two outputs of one shape; sums in FP64."""
    wide, other = reference.double(), engine.double()
    signal = float(wide.square().sum())
    snr = decibels(signal, float((other - wide).square().sum()))
    size = math.sqrt(signal * float(other.square().sum()))
    cosine = float((wide * other).sum()) / size if 0 < size < math.inf else 0.0
    return Agreement(snr=snr, cosine=cosine if math.isfinite(cosine) else 0.0)
