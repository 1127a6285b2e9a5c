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

from export.engines.plan import Kernel, KernelKind, Plan
from runtimes.executors.vnni import has_vnni

PLAN_TYPES: Mapping[str, torch.dtype] = {
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "FP8": torch.float8_e4m3fn,
    "Int8": torch.int8,
}
QUANTISED = ("Int8", "FP8")
# Sums of so many products of two bytes are whole numbers below 2^24, exact in FP32.
_EXACT = 1024


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """What DequantizeLinear is given: stored values, their scale as it broadcasts, its type."""

    values: Tensor
    scale: Tensor

    def dequantised(self) -> Tensor:
        """The operand as the graph has it, rounded to its scale's type."""
        return (self.values.float() * self.scale.float()).to(self.scale.dtype)


@dataclass(frozen=True, kw_only=True)
class QuantisedKernel:
    """How the engine multiplies one product of quantised operands.

    ``output`` is None where the kernel goes on with what follows the product: the sum then has
    the type that the graph gives it.
    """

    kernel: str
    alpha: float
    output: torch.dtype | None


def quantised_kernels(plan: Plan) -> Mapping[str, QuantisedKernel]:
    """By ONNX node, the products of the plan that multiply quantised numbers.

    A kernel that multiplies in floating point after another kernel, or its own beginning,
    dequantised the weight is none: it computes what the graph says.
    """
    first: dict[str, Kernel] = {}
    for kernel in plan.products:
        for node in kernel.nodes:
            first.setdefault(node, kernel)  # later ones only read it
    return {node: _facts(kernel) for node, kernel in first.items() if _is_quantised(kernel)}


def _is_quantised(kernel: Kernel) -> bool:
    weight = kernel.weight or (kernel.inputs[1] if len(kernel.inputs) > 1 else None)
    types = {kernel.inputs[0].type, weight.type} if kernel.inputs and weight else set()
    return bool(types) and types <= set(QUANTISED)


def _facts(kernel: Kernel) -> QuantisedKernel:
    plain = kernel.kind is KernelKind.GEMM
    # An unsaid factor is taken for none: every scale is then multiplied in afterwards.
    alpha = 1.0 if kernel.alpha is None else kernel.alpha
    output = PLAN_TYPES[kernel.outputs[0].type] if plain else None
    return QuantisedKernel(kernel=kernel.name, alpha=alpha, output=output)


@dataclass
class Overflow:
    """Sums of one product that its output's type could not hold."""

    count: int = 0
    total: int = 0
    largest: float = 0.0

    def __str__(self) -> str:
        share = self.count / max(self.total, 1)
        return f"{share:.2%} of its sums overflow, the largest is {self.largest:.3g}"


def quantised_product(
    a: Quantised, b: Quantised, facts: QuantisedKernel, dtype: torch.dtype, overflow: Overflow
) -> Tensor:
    """``a @ b`` in ``dtype``, the graph's type; counts what overflows in ``overflow``."""
    sums = exact_sums(a.values, b.values) * torch.tensor(facts.alpha, dtype=torch.float32)
    rounded = sums.to(facts.output or dtype)
    overflow.count += int(rounded.isinf().sum())
    overflow.total += rounded.numel()
    overflow.largest = max(overflow.largest, float(sums.abs().max()))
    left = scale_left(a.scale, b.scale, facts)
    return (rounded if left is None else rounded.float() * left.float()).to(dtype)


def scale_left(a: Tensor, b: Tensor, facts: QuantisedKernel) -> Tensor | None:
    """The scales that ``alpha`` does not carry, folded into one constant of their type.

    None where it carries both. Raises :class:`ValueError` for a factor that is neither one of the
    scales, nor their product, nor 1: the plan is then not that of the graph.
    """
    folded = (a.float() * b.float()).to(b.dtype)
    options: tuple[tuple[Tensor, Tensor | None], ...] = (
        (a.float() * b.float(), None),
        (torch.ones(()), folded),
        (a.float(), b),
        (b.float(), a),
    )
    for factor, left in options:
        if factor.numel() == 1 and math.isclose(
            float(factor), facts.alpha, rel_tol=2**-9, abs_tol=2**-24 if left is None else 0.0
        ):
            return left
    raise ValueError(
        f"{facts.kernel}: alpha is {facts.alpha:.6g}, which is none of the graph's scales; the "
        "plan belongs to another graph"
    )


def exact_sums(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of INT8 exactly, or of FP8 summed in FP32, as FP32."""
    if a.dtype is not torch.int8:
        return torch.matmul(a.float(), b.float())
    rows = a.reshape(-1, a.shape[-1])
    if has_vnni():
        sums = torch._int_mm(rows.contiguous(), b.contiguous())
    else:
        sums = torch.zeros((rows.shape[0], b.shape[1]), dtype=torch.int32)
        for x, y in zip(torch.split(rows, _EXACT, 1), torch.split(b, _EXACT, 0), strict=True):
            sums += torch.matmul(x.float(), y.float()).to(torch.int32)
    return sums.float().reshape(*a.shape[:-1], -1)
