"""Two calibrations GEMM by GEMM: how their ranges differ, and what one would clip of the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from calibration.quantise import Matrix
from calibration.smoothing import input_factors
from calibration.table import Range
from runtimes.errors import InputError, shown

_ROUNDING = 1e-6  # of products in FP32
_LEAST = 1e-5  # a channel that is always zero, as smoothing takes it (calibration.smoothing)


Reads = Mapping[str, Matrix]  # by GEMM, the greatest |w| that each input channel meets, [K]


@dataclass(frozen=True, kw_only=True)
class Overshoot:
    """How far the other calibration's texts go beyond this one's range, 1 being its end.

    ``channels`` is the share of input channels whose maximum the other's exceeds. ``factor`` is
    exact where ``exact``: for plain inputs, and for smoothed ones where the weights are known,
    which their scaling depends on. Else it is the most it can be and, with another observer than
    min-max, whose ranges end inside what was seen, unknown (None).
    """

    channels: float
    factor: float | None
    exact: bool

    @property
    def clips(self) -> bool:
        """Whether the other's texts certainly go beyond the range."""
        return self.exact and self.may_clip

    @property
    def may_clip(self) -> bool:
        """Whether they do, or cannot be told not to."""
        return self.factor is None or self.factor > 1 + _ROUNDING


@dataclass(frozen=True, kw_only=True)
class GemmDifference:
    """One GEMM of two calibrations; ``ratio`` is the second's amplitude by the first's.

    Amplitudes are of smoothed inputs: at different alphas they are on different scales.
    ``first`` says how far the second's texts go beyond the first's range, and the reverse.
    """

    name: str
    amplitudes: tuple[float, float]
    ratio: float
    alphas: tuple[float, float]
    first: Overshoot
    second: Overshoot

    @property
    def distance(self) -> float:
        """What orders them: the greatest of what is beyond a range, or the amplitudes' ratio."""
        ratio = self.ratio if self.alphas[0] == self.alphas[1] else 1.0
        return max(self.first.factor or 1.0, self.second.factor or 1.0, ratio, 1 / ratio)


def gemm_differences(
    first: Mapping[str, Range], second: Mapping[str, Range], reads: Reads | None = None
) -> tuple[GemmDifference, ...]:
    """A row per GEMM, the most different first; with ``reads``, the weights', all of it is exact.

    Raises :class:`InputError` where the GEMMs are not the same.
    """
    if _shapes(first) != _shapes(second):
        different = sorted(set(_shapes(first).items()) ^ set(_shapes(second).items()))
        raise InputError(
            f"calibrations: their GEMMs differ ({shown(different[0][0])} and "
            f"{len(different) - 1} more entries), expected two of one model"
        )
    rows = [
        _difference(name, one, second[name], None if reads is None else reads[name])
        for name, one in first.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.distance))


def _shapes(ranges: Mapping[str, Range]) -> dict[str, int]:
    return {name: len(entry.channel_max) for name, entry in ranges.items()}


def _difference(name: str, first: Range, second: Range, reads: Matrix | None) -> GemmDifference:
    return GemmDifference(
        name=name,
        amplitudes=(first.amplitude, second.amplitude),
        ratio=max(second.amplitude, _LEAST) / max(first.amplitude, _LEAST),
        alphas=(first.alpha, second.alpha),
        first=overshoot(first, second, reads),
        second=overshoot(second, first, reads),
    )


def overshoot(mine: Range, other: Range, reads: Matrix | None = None) -> Overshoot:
    """What ``mine`` would do to the texts that ``other`` was made from.

    A smoothed channel k is multiplied by f_k, and with min-max the amplitude is at least
    ``max_k f_k mine_k``. Where f is not known, the other's is at most ``max_k other_k / mine_k``
    of it.
    """
    own, others = (np.array(r.channel_max, np.float32) for r in (mine, other))
    exact = mine.alpha == 0 or reads is not None
    factor: float | None = None
    if exact:
        weight = np.ones_like(own) if reads is None else reads
        factors = input_factors(own, weight[:, None], mine.alpha, "float32")
        factor = float((others * factors).max()) / max(mine.amplitude, _LEAST)
    elif mine.observer == "min-max":
        factor = float((np.maximum(others, _LEAST) / np.maximum(own, _LEAST)).max())
    return Overshoot(channels=float((others > own).mean()), factor=factor, exact=exact)
