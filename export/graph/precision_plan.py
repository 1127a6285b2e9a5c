"""Which GEMMs of a bundle are quantised, with which ranges, and which fell back and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from calibration.quantise import Matrix, quantise, single_scale, stored_scale, weight_scale
from calibration.rounding import stored_steps, weight_scales
from calibration.smoothing import input_factors
from runtimes.schemes import SCHEMES, Scheme, Storage

# The tensors beside ``weight`` that a quantised GEMM has in the weight file.
INPUT_SCALE, WEIGHT_SCALE, FACTORS = "input_scale", "weight_scale", "input_factors"
CHANNEL_SCALE = "channel_scale"  # each output channel's part of a single weight scale


@dataclass(frozen=True)
class GemmRange:
    """A quantised GEMM's input: ``amplitude`` is where it clips, after smoothing by ``alpha``.

    ``channel_max [K]`` is what the factors are computed from; 0 switches smoothing off.
    """

    amplitude: float
    channel_max: Matrix
    alpha: float = 0.0


@dataclass(frozen=True)
class PrecisionPlan:
    """``quantised`` by GEMM name in graph order, ``fallback`` the reason of each that left it.

    ``dtype`` is the element type of the rest of the graph and of the stored scales; values are
    quantised with the scale as it is stored. A GEMM of a weight-only scheme has no range (None).
    ``eased`` are those of ``quantised`` that left the scheme for the one it eases to.

    In half precision a weight with scales per channel has one ``weight_scale``, its largest
    channel's, and the channels' shares of it in ``channel_scale [N]``, which multiplies the
    product. TensorRT then
    puts input scale times weight scale into the product, whose result is of the order of the
    layer's. With a scale per channel on the weight it multiplies afterwards, and the bare sum of
    integer products, up to 127² · K, overflows FP16.
    """

    scheme: Scheme
    dtype: str
    quantised: Mapping[str, GemmRange | None]
    fallback: Mapping[str, str] = field(default_factory=dict)
    eased: frozenset[str] = frozenset()

    @property
    def has_shares(self) -> bool:
        """Whether weights have one scale and a share of it per channel."""
        storage = self.scheme.operands
        single = storage.weight_only or storage.weight_axis is None
        return self.dtype != "float32" and not single

    def storage_of(self, name: str) -> Storage:
        """How a quantised GEMM is stored."""
        if name in self.eased and self.scheme.eases_to is not None:
            return SCHEMES[self.scheme.eases_to].operands
        return self.scheme.operands

    @property
    def storages(self) -> dict[str, Storage]:
        """How each quantised GEMM is stored, in graph order."""
        return {name: self.storage_of(name) for name in self.quantised}

    def tensor(self, name: str, part: str, weight: Matrix) -> NDArray[np.generic]:
        """One stored tensor of a quantised GEMM whose weight is FP32 ``[K, N]``."""
        entry, storage = self.quantised[name], self.storage_of(name)
        if entry is None:
            scales = weight_scales(weight, self.dtype, storage)
            return scales if part == WEIGHT_SCALE else stored_steps(weight, scales, storage)
        if part == INPUT_SCALE:
            return stored_scale(entry.amplitude, self.dtype, storage)
        factors = input_factors(entry.channel_max, weight, entry.alpha, self.dtype)
        if part == FACTORS:
            return factors
        smoothed = weight / factors[:, None]
        if not self.has_shares:
            scale = weight_scale(smoothed, self.dtype, storage)
            return scale if part == WEIGHT_SCALE else quantise(smoothed, scale, storage)
        scale, shares = single_scale(smoothed, self.dtype, storage)
        if part in (WEIGHT_SCALE, CHANNEL_SCALE):
            return scale if part == WEIGHT_SCALE else shares
        return quantise(smoothed, scale.astype(np.float32) * shares.astype(np.float32), storage)
