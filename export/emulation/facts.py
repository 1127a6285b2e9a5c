"""Where a plan departs from its graph's own arithmetic: quantised products, Half accumulators.

Read from the plan alone, without PyTorch: ``verify`` asks which emulations a bundle calls for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from export.engines.plan import Kernel, KernelKind, Plan

QUANTISED = frozenset({"Int8", "FP8"})


@dataclass(frozen=True, kw_only=True)
class QuantisedProduct:
    """How a kernel multiplies quantised operands.

    The sum is multiplied by ``alpha`` and rounded to ``output``, TensorRT's word for a type; None
    where the kernel goes on with what follows the product: the sum then has the graph's type.
    """

    alpha: float
    output: str | None
    kernel: str = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class FusedAttention:
    """The type of a kernel's operands, and the one in which both its products add up."""

    operands: str
    accumulator: str | None

    @property
    def departs(self) -> bool:
        """Whether it adds up in less than the graph's FP32."""
        return self.accumulator == "Half"


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """What a plan makes of a graph's products and attentions, by the ONNX node's name."""

    products: Mapping[str, QuantisedProduct]
    attentions: Mapping[str, FusedAttention]
    is_told: bool = True  # the factors: without any of them nothing can be emulated

    @property
    def departs(self) -> bool:
        """Whether a vector can differ from the graph's by more than the order of a sum."""
        return bool(self.products) or any(kernel.departs for kernel in self.attentions.values())


def numerics_of(plan: Plan) -> Numerics:
    """The numerics of a plan.

    A product of floating numbers is none of its ``products``, also where the numbers were stored
    quantised and another kernel, or the beginning of its own, dequantised them: it computes what
    the graph says.
    """
    first: dict[str, Kernel] = {}
    for kernel in plan.products:
        for node in kernel.nodes:
            first.setdefault(node, kernel)  # later ones only read it
    quantised = [kernel for kernel in first.values() if _quantised(kernel)]
    return Numerics(
        is_told=not quantised or any(kernel.alpha is not None for kernel in quantised),
        products={node: _product(kernel) for node, kernel in first.items() if _quantised(kernel)},
        attentions={
            node: _attention(kernel) for kernel in plan.attentions for node in kernel.nodes
        },
    )


def _quantised(kernel: Kernel) -> bool:
    """Whether both operands are: an input and the weight, or two inputs.

    A kernel that goes on with what follows has other inputs too, a residual sum's.
    """
    operands = [t.type for t in kernel.inputs if t.type in QUANTISED]
    weight = kernel.weight
    return len(operands) > 1 if weight is None else bool(operands) and weight.type in QUANTISED


def _product(kernel: Kernel) -> QuantisedProduct:
    # One that is unsaid among others is taken for none: the scales are multiplied in afterwards.
    alpha = 1.0 if kernel.alpha is None else kernel.alpha
    output = kernel.outputs[0].type if kernel.kind is KernelKind.GEMM else None
    return QuantisedProduct(alpha=alpha, output=output, kernel=kernel.name)


def _attention(kernel: Kernel) -> FusedAttention:
    return FusedAttention(operands=kernel.inputs[0].type, accumulator=kernel.accumulator)
