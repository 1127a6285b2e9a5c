"""From the absolute values a tensor takes to the amplitude at which a stored type clips them.

A :class:`Histogram` counts |x| in 2048 bins however much is streamed through it. An observer is
one function from a histogram and a stored type to a clipping amplitude, which becomes the type's
largest level: 127 of INT8, 448 of E4M3.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.quantise import MIN_SCALE, magnitudes
from runtimes.errors import InputError
from runtimes.schemes import Storage

BINS = 2048
# Of later texts: smoothing makes all channels' maxima alike, and of hundreds some is exceeded by
# nearly every text. What is clipped then costs a text more than coarser steps cost all.
HEADROOM = 1.2
_KL_BINS = 128  # the least range that the entropy search tries
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


def min_max(histogram: Histogram, storage: Storage) -> float:
    """The greatest absolute value with :data:`HEADROOM`: nothing that was seen is clipped."""
    return _live(histogram, HEADROOM * histogram.maximum, storage)


def percentile(histogram: Histogram, storage: Storage, share: float = 0.9999) -> float:
    """The amplitude that leaves ``share`` of the values unclipped, linear within a bin."""
    counts = histogram.used()
    goal = share * _count(histogram)
    index = int(np.searchsorted(np.cumsum(counts), goal))
    inside = (goal - counts[:index].sum()) / counts[index]
    amplitude = min((index + inside) * histogram.width, histogram.maximum)
    return _live(histogram, amplitude, storage)


def entropy(histogram: Histogram, storage: Storage) -> float:
    """The amplitude whose levels keep most information, by Kullback-Leibler divergence.

    After Migacz, "8-bit inference with TensorRT" (GTC 2017): what is clipped counts into the
    candidate's last bin of the reference distribution, not of the quantised one. INT8's 128
    levels share the bins equally; a floating type's as far as the next level is away.
    """
    counts = histogram.used().astype(np.float64)
    levels = magnitudes(storage)
    shares = levels / (2 * levels[-1] - levels[-2])
    best, least = len(counts), math.inf
    for end in range(_KL_BINS, len(counts) + 1):
        divergence = _divergence(counts, end, shares)
        # At equal divergence the wider range clips less.
        if divergence <= least:
            best, least = end, divergence
    return _live(histogram, min(best * histogram.width, histogram.maximum), storage)


def mse(histogram: Histogram, storage: Storage) -> float:
    """The amplitude with the least mean squared error, values being uniform within a bin."""
    counts = histogram.used().astype(np.float64)
    if not histogram.maximum:
        return _live(histogram, 0.0, storage)
    grid = _Grid.of(magnitudes(storage))
    edges: Doubles = np.arange(len(counts) + 1, dtype=np.float64) * histogram.width
    candidates = [*edges[1:-1].tolist(), histogram.maximum]
    errors = [(counts * np.diff(grid.error_integral(edges, a))).sum() for a in candidates]
    return _live(histogram, candidates[int(np.argmin(errors))], storage)


OBSERVERS: Mapping[str, Callable[[Histogram, Storage], float]] = {
    "min-max": min_max,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}


def _count(histogram: Histogram) -> int:
    if not (count := histogram.count):
        raise InputError("histogram: no values were added, so there is no range to choose")
    return count


def _live(histogram: Histogram, amplitude: float, storage: Storage) -> float:
    """``amplitude``, or for a dead tensor the least one that gives a usable scale."""
    _count(histogram)
    return max(float(amplitude), storage.levels * MIN_SCALE)


def _divergence(counts: Doubles, end: int, shares: Doubles) -> float:
    """KL divergence between ``counts[:end]`` and the same in levels, which begin at ``shares``."""
    inside = counts[:end]
    reference = inside.copy()
    reference[-1] += counts[end:].sum()
    filled = inside > 0
    starts = np.unique((shares * end).astype(np.intp))  # E4M3's least levels are in one bin
    sums, members = (np.add.reduceat(x.astype(np.float64), starts) for x in (inside, filled))
    means = sums / np.maximum(members, 1)
    quantised = np.repeat(means, np.diff(starts, append=end)) * filled
    present = reference > 0
    p, q = reference[present] / reference.sum(), quantised[present] / max(quantised.sum(), 1)
    return float(p @ np.log(p / np.maximum(q, _KL_FLOOR)))


@dataclass(frozen=True)
class _Grid:
    """A stored type's magnitudes ascending from 0, the middles between them, and the integral of
    the squared rounding error from 0 to each.
    """

    levels: Doubles
    middles: Doubles
    integrals: Doubles

    @staticmethod
    def of(levels: Doubles) -> _Grid:
        # Over a gap of h to either neighbour the squared distance integrates to h³/12.
        integrals = np.concatenate([[0.0], np.cumsum(np.diff(levels) ** 3 / 12)])
        return _Grid(levels, (levels[1:] + levels[:-1]) / 2, integrals)

    def error_integral(self, edges: Doubles, amplitude: float) -> Doubles:
        """The integral of the squared error from 0 to each edge.

        Inside the range the error is the distance to the nearest level; beyond it, the distance
        to the amplitude.
        """
        step = amplitude / float(self.levels[-1])
        steps = np.minimum(edges, amplitude) / step
        nearest = np.searchsorted(self.middles, steps)
        rest = steps - self.levels[nearest]
        inside = step**3 * (self.integrals[nearest] + rest**3 / 3)
        integral: Doubles = inside + np.maximum(edges - amplitude, 0) ** 3 / 3
        return integral
