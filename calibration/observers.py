"""From the absolute values a tensor takes to the amplitude at which INT8 clips them.

A :class:`Histogram` counts |x| in 2048 bins however much is streamed through it. An observer is
one function from a histogram to a clipping amplitude; the scale is ``amplitude / 127``.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from calibration.quantise import MIN_SCALE
from runtimes.errors import InputError
from runtimes.schemes import INT8

BINS = 2048
MIN_AMPLITUDE = INT8.levels * MIN_SCALE  # of a dead tensor
_KL_LEVELS = 128
# A last bin that holds clipped values alone has probability 0 in the quantised distribution; the
# divergence would be infinite and one outlier would decide the range.
_KL_FLOOR = 1e-9

Doubles = NDArray[np.float64]


class Histogram:
    """How often |x| falls into each of 2048 equal bins of ``[0, limit)``.

    ``limit`` is the least power of two above the maximum seen (at least 2⁻²⁴). When a value
    exceeds it, it doubles, and pairs of bins merge. Bin edges are then exact in floating point,
    and the counts are those of one pass over everything, in any order.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.limit = 2.0**-24
        self.maximum = 0.0

    def add(self, values: NDArray[np.floating]) -> None:
        """Count the absolute values of an array of any shape.

        Raises :class:`InputError` where one is not finite; nothing is counted then.
        """
        magnitudes = np.abs(values, dtype=np.result_type(values, np.float32)).ravel()
        if not magnitudes.size:
            return
        largest = float(magnitudes.max())
        if not math.isfinite(largest):
            raise InputError(f"histogram: got {largest}, expected finite values")
        self._widen(largest)
        self.maximum = max(self.maximum, largest)
        bins = (magnitudes * (BINS / self.limit)).astype(np.intp)
        self.counts += np.bincount(bins, minlength=BINS)

    @property
    def count(self) -> int:
        """How many values were added."""
        return int(self.counts.sum())

    @property
    def width(self) -> float:
        """Of one bin."""
        return self.limit / BINS

    def used(self) -> NDArray[np.int64]:
        """The counts up to the maximum's bin."""
        return self.counts[: int(self.maximum / self.width) + 1]

    def digest(self) -> str:
        """Hex SHA-256 of range, maximum and counts."""
        head = struct.pack("<dd", self.limit, self.maximum)
        return hashlib.sha256(head + self.counts.astype("<i8").tobytes()).hexdigest()

    def _widen(self, largest: float) -> None:
        if largest < self.limit:
            return
        limit = 2.0 ** math.frexp(largest)[1]
        merged = int(min(limit / self.limit, BINS))
        sums = self.counts.reshape(-1, merged).sum(axis=1)
        self.counts = np.concatenate([sums, np.zeros(BINS - len(sums), np.int64)])
        self.limit = limit


def min_max(histogram: Histogram) -> float:
    """The greatest absolute value: nothing is clipped."""
    return _live(histogram, histogram.maximum)


def percentile(histogram: Histogram, share: float = 0.9999) -> float:
    """The amplitude that leaves ``share`` of the values unclipped, linear within a bin."""
    counts = histogram.used()
    goal = share * _count(histogram)
    index = int(np.searchsorted(np.cumsum(counts), goal))
    inside = (goal - counts[:index].sum()) / counts[index]
    return _live(histogram, min((index + inside) * histogram.width, histogram.maximum))


def entropy(histogram: Histogram) -> float:
    """The amplitude whose 128 levels keep most information, by Kullback-Leibler divergence.

    After Migacz, "8-bit inference with TensorRT" (GTC 2017): what is clipped counts into the
    candidate's last bin of the reference distribution, not of the quantised one.
    """
    counts = histogram.used().astype(np.float64)
    best, least = len(counts), math.inf
    for end in range(_KL_LEVELS, len(counts) + 1):
        divergence = _divergence(counts, end)
        # At equal divergence the wider range clips less.
        if divergence <= least:
            best, least = end, divergence
    return _live(histogram, min(best * histogram.width, histogram.maximum))


def mse(histogram: Histogram) -> float:
    """The amplitude with the least mean squared error, values being uniform within a bin."""
    counts = histogram.used().astype(np.float64)
    if not histogram.maximum:
        return _live(histogram, 0.0)
    edges: Doubles = np.arange(len(counts) + 1, dtype=np.float64) * histogram.width
    candidates = [*edges[1:-1].tolist(), histogram.maximum]
    errors = [(counts * np.diff(_error_integral(edges, a))).sum() for a in candidates]
    return _live(histogram, candidates[int(np.argmin(errors))])


OBSERVERS: Mapping[str, Callable[[Histogram], float]] = {
    "min-max": min_max,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}


def _count(histogram: Histogram) -> int:
    if not (count := histogram.count):
        raise InputError("histogram: no values were added, so there is no range to choose")
    return count


def _live(histogram: Histogram, amplitude: float) -> float:
    """``amplitude``, or for a dead tensor the least one that gives a usable scale."""
    _count(histogram)
    return max(float(amplitude), MIN_AMPLITUDE)


def _divergence(counts: Doubles, end: int) -> float:
    """KL divergence between ``counts[:end]`` and the same in 128 levels."""
    inside = counts[:end]
    reference = inside.copy()
    reference[-1] += counts[end:].sum()
    filled = inside > 0
    starts = np.arange(_KL_LEVELS) * end // _KL_LEVELS
    sums, members = (np.add.reduceat(x.astype(np.float64), starts) for x in (inside, filled))
    means = sums / np.maximum(members, 1)
    quantised = np.repeat(means, np.diff(starts, append=end)) * filled
    present = reference > 0
    p, q = reference[present] / reference.sum(), quantised[present] / max(quantised.sum(), 1)
    return float(p @ np.log(p / np.maximum(q, _KL_FLOOR)))


def _error_integral(edges: Doubles, amplitude: float) -> Doubles:
    """The integral of the squared rounding error from 0 to each edge.

    Inside the range the error is the distance to the nearest multiple of the step s, whose
    square integrates to s³/12 over each period; beyond it, the distance to the amplitude.
    """
    step = amplitude / INT8.levels
    steps = np.minimum(edges, amplitude) / step
    nearest = np.rint(steps)
    inside = step**3 * (nearest / 12 + (steps - nearest) ** 3 / 3)
    integral: Doubles = inside + np.maximum(edges - amplitude, 0) ** 3 / 3
    return integral
