"""Which GEMMs of a bundle are quantised, with which ranges, and which fell back and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from calibration.quantise import (
    Matrix,
    fake_quantise,
    quantise,
    single_scale,
    stored_scale,
    weight_scale,
)
from calibration.rounding import weight_scales, wide_scales
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

    def scale(self, dtype: str, storage: Storage) -> NDArray[np.floating]:
        """The smoothed input's, as it is stored in ``dtype``."""
        return stored_scale(self.amplitude, dtype, storage)

    def factors(self, weight: Matrix, dtype: str) -> Matrix:
        """What the input is multiplied by, FP32 ``[K]``; ``weight`` is ``[K, N]``."""
        return input_factors(self.channel_max, weight, self.alpha, dtype)


@dataclass(frozen=True)
class PrecisionPlan:
    """``quantised`` by GEMM name in graph order, ``fallback`` the reason of each that left it.

    ``dtype`` is the element type of the rest of the graph and of the stored scales; values are
    quantised with the scale as it is stored. A GEMM of a weight-only scheme has no range (None).
    ``eased`` are those of ``quantised`` that left the scheme for the one it eases to. ``steps``
    are the weights' numbers ``[K, N]`` where they were learned; others are rounded to the nearest.

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
    steps: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)

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
        if part == INPUT_SCALE:
            return self._range(name).scale(self.dtype, self.storage_of(name))
        if part == FACTORS:
            return self._range(name).factors(weight, self.dtype)
        smoothed, scales, stored = self.operand(name, weight)
        if part != "weight":
            return stored[part]
        steps = self.steps.get(name)
        if steps is None:
            steps = quantise(smoothed, scales, self.storage_of(name))
        return steps if self.quantised[name] is not None else np.ascontiguousarray(steps.T)

    def operand(
        self, name: str, weight: Matrix
    ) -> tuple[Matrix, NDArray[np.floating], Mapping[str, NDArray[np.floating]]]:
        """What is rounded of a weight ``[K, N]``, in which steps, and the scales that are stored.

        The steps have a shape that broadcasts to ``[K, N]``.
        """
        entry, storage = self.quantised[name], self.storage_of(name)
        if entry is None:
            scales = weight_scales(weight, self.dtype, storage)
            return weight, wide_scales(scales, len(weight)), {WEIGHT_SCALE: scales}
        smoothed = weight / entry.factors(weight, self.dtype)[:, None]
        if not self.has_shares:
            scales = weight_scale(smoothed, self.dtype, storage)
            return smoothed, scales, {WEIGHT_SCALE: scales}
        scale, shares = single_scale(smoothed, self.dtype, storage)
        wide = scale.astype(np.float32) * shares.astype(np.float32)
        return smoothed, wide, {WEIGHT_SCALE: scale, CHANNEL_SCALE: shares}

    def multiplied(self, name: str, rows: Matrix, weight: Matrix) -> Matrix:
        """What a quantised GEMM multiplies of ``rows [n, K]``, in FP32."""
        entry, storage = self.quantised[name], self.storage_of(name)
        if entry is None:
            return rows
        smoothed = rows * entry.factors(weight, self.dtype)
        return fake_quantise(smoothed, entry.scale(self.dtype, storage), storage)

    def _range(self, name: str) -> GemmRange:
        entry = self.quantised[name]
        if entry is None:
            raise ValueError(f"{name}: its weight alone is quantised; there is no range")
        return entry
