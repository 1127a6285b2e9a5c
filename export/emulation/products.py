"""A quantised matrix product as the compiled kernel does it: sum, factor, output type, scales.

The kernel adds up exactly (INT8 in integers, FP8 in FP32), multiplies by its ``alpha`` and rounds
to its output's type, where a Half beyond 65504 is infinite. What of the operands' scales is not in
``alpha`` another kernel multiplies in afterwards, in the graph's type.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from export.emulation.facts import QuantisedProduct
from runtimes.executors.vnni import has_vnni

PLAN_TYPES: Mapping[str, torch.dtype] = {
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
}
# Sums of so many products of two bytes are whole numbers below 2^24, exact in FP32.
_EXACT = 1024


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """What DequantizeLinear is given: stored values, and their scale as it broadcasts."""

    values: Tensor
    scale: Tensor

    def dequantised(self) -> Tensor:
        """The operand as the graph has it, rounded to its scale's type."""
        return (self.values.float() * self.scale.float()).to(self.scale.dtype)


@dataclass
class Overflow:
    """Sums that the type they are rounded to could not hold."""

    count: int = 0
    total: int = 0
    largest: float = 0.0

    def add(self, sums: Tensor, rounded: Tensor) -> None:
        """Count one call's, of FP32 sums."""
        self.count += int(rounded.isinf().sum())
        self.total += rounded.numel()
        self.largest = max(self.largest, float(sums.abs().max()))

    def __str__(self) -> str:
        share = self.count / max(self.total, 1)
        return f"{share:.2%} of its sums are beyond what Half holds, the largest {self.largest:.3g}"


def quantised_product(
    a: Quantised, b: Quantised, facts: QuantisedProduct, dtype: torch.dtype, overflow: Overflow
) -> Tensor:
    """``a @ b`` in ``dtype``, the graph's type; counts what overflows in ``overflow``."""
    sums = exact_sums(a.values, b.values) * torch.tensor(facts.alpha, dtype=torch.float32)
    rounded = sums.to(dtype if facts.output is None else PLAN_TYPES[facts.output])
    overflow.add(sums, rounded)
    left = scale_left(a.scale, b.scale, facts)
    return (rounded if left is None else rounded.float() * left.float()).to(dtype)


def scale_left(a: Tensor, b: Tensor, facts: QuantisedProduct) -> Tensor | None:
    """The scales that ``alpha`` does not carry, folded into one constant of their type.

    None where it carries both. Raises :class:`ValueError` for a factor that is neither one of the
    scales, nor their product, nor 1: the plan is then not that of the graph.
    """
    both = a.float() * b.float()
    options: tuple[tuple[Tensor, Tensor | None], ...] = (
        (both, None),
        (torch.ones(()), both.to(b.dtype)),
        (a.float(), b),
        (b.float(), a),
    )
    for factor, left in options:
        if factor.numel() == 1 and _same(float(factor), facts.alpha):
            return left
    raise ValueError(
        f"{facts.kernel}: alpha is {facts.alpha:.6g}, which is none of the graph's scales; the "
        "plan belongs to another graph"
    )


def _same(factor: float, alpha: float) -> bool:
    """Up to Half's rounding, which in its subnormal range is 2^-25 absolute."""
    return math.isclose(factor, alpha, rel_tol=2**-10, abs_tol=2**-25)


def exact_sums(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of INT8 exactly, or of FP8 summed in FP32, as FP32."""
    if a.dtype is not torch.int8:
        return torch.matmul(a.float(), b.float())
    rows = a.reshape(-1, a.shape[-1])
    # Five times as fast as FP32, and exact where the CPU does not saturate in 16 bits.
    sums = torch._int_mm(rows, b) if has_vnni() else split_sums(rows, b)
    return sums.float().reshape(*a.shape[:-1], -1)


def split_sums(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of INT8 matrices exactly, as INT32, by FP32 products of parts."""
    sums = torch.zeros((a.shape[0], b.shape[1]), dtype=torch.int32)
    for x, y in zip(torch.split(a, _EXACT, 1), torch.split(b, _EXACT, 0), strict=True):
        sums += torch.matmul(x.float(), y.float()).to(torch.int32)
    return sums
