"""What a call moves and computes: bytes and floating-point operations of each kernel of a plan.

Bytes are those of a cold cache: every operand is read or written once, whole. What a kernel reads
under one name counts at most as much as was written there (slices of Q, K and V are apart, two
readings of one table are not), and of a table that is gathered from, one row per token. What stays
inside a kernel is not in a plan. How large the operands are is said by
:mod:`export.engines.plan_sizes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from export.engines.plan import Kernel, KernelKind, Plan, PlanTensor
from export.engines.plan_sizes import (
    Sizes,
    Workload,
    dynamic,
    head_width,
    multiplies_activations,
)

__all__ = ["KernelTraffic", "Workload", "factors", "traffic"]


@dataclass(frozen=True, kw_only=True)
class KernelTraffic:
    """One kernel's work in one call.

    ``read`` and ``written`` are bytes of activations, ``constants`` of weights and tables.
    ``flops`` counts a multiplication and an addition as two, in matrix products and attention
    alone; ``operands`` are the types of a product's activation and weight, or of attention's
    queries and keys, and None where nothing is multiplied.
    """

    kernel: Kernel
    read: float
    constants: float
    written: float
    flops: int = 0
    operands: tuple[str, str] | None = None

    @property
    def bytes(self) -> float:
        """All that it moves to and from memory."""
        return self.read + self.constants + self.written


def traffic(plan: Plan, workload: Workload) -> tuple[KernelTraffic, ...]:
    """Bytes and operations of every launch of ``plan``, in its order.

    Raises :class:`ValueError` for a type whose size is not known and for a shape that no rule
    explains: a wrong number would pass for a right one.
    """
    sizes = Sizes.of(plan, workload)
    whole: dict[str, float] = {}
    for kernel in plan.launches:
        for tensor in kernel.outputs:
            # Several kernels may each write a slice of one buffer.
            whole[tensor.name] = whole.get(tensor.name, 0) + sizes.bytes(tensor)
    return tuple(_kernel_traffic(kernel, sizes, whole) for kernel in plan.launches)


def _kernel_traffic(kernel: Kernel, sizes: Sizes, whole: Mapping[str, float]) -> KernelTraffic:
    views: dict[str, list[float]] = {}
    for tensor in kernel.inputs:
        views.setdefault(tensor.name, []).append(sizes.bytes(tensor))
    multiplied = factors(kernel)
    return KernelTraffic(
        kernel=kernel,
        read=sum(min(sum(v), whole.get(name, max(v))) for name, v in views.items()),
        constants=sum(_constant_bytes(kernel, c, sizes) for c in kernel.constants),
        written=sum(sizes.bytes(tensor) for tensor in kernel.outputs),
        flops=0 if multiplied is None else _flops(kernel, multiplied, sizes),
        operands=None if multiplied is None else (multiplied[0].type, multiplied[1].type),
    )


def _constant_bytes(kernel: Kernel, constant: PlanTensor, sizes: Sizes) -> float:
    """Of a matrix beside activations in generated code, the rows that the tokens ask for.

    Such a kernel multiplies no matrices, so it gathers from it. Without activations (a weight
    that is converted in every call) it reads it whole.
    """
    whole = sizes.bytes(constant)
    gathers = kernel.kind is KernelKind.GENERATED and any(dynamic(t) for t in kernel.inputs)
    if not gathers or len(constant.shape) != 2:
        return whole
    table_rows = constant.shape[0]
    return whole / table_rows * min(table_rows, sizes.workload.rows)


def _flops(kernel: Kernel, multiplied: tuple[PlanTensor, PlanTensor], sizes: Sizes) -> int:
    left, right = multiplied
    tokens = sizes.workload.tokens
    if kernel.is_attention:  # queries · keys, then scores · values
        return 4 * sizes.elements(left) * tokens
    inner = tokens if left.shape[-1] == -1 else left.shape[-1]
    if multiplies_activations(kernel):
        return 2 * sum(sizes.elements(tensor) for tensor in kernel.outputs) * inner
    rows, rest = divmod(sizes.elements(left), inner)
    if rest:
        raise ValueError(f"{kernel.name}: {left.shape} times {right.shape}: no whole rows")
    return 2 * rows * inner * right.shape[-1]


def factors(kernel: Kernel) -> tuple[PlanTensor, PlanTensor] | None:
    """What is multiplied, an activation first: queries and keys, or ``[…, K]`` and ``[K, N]``."""
    if kernel.is_attention:
        return _queries_and_keys(kernel)
    if not kernel.is_product:
        return None
    if multiplies_activations(kernel):
        left, right = [tensor for tensor in kernel.inputs if dynamic(tensor)][:2]
        return left, right
    return _activation_and_matrix(kernel)


def _activation_and_matrix(kernel: Kernel) -> tuple[PlanTensor, PlanTensor]:
    """The matrix is a constant, or the operand of fixed shape that another kernel made of one."""
    made = [t for t in kernel.inputs if len(t.shape) > 1 and not dynamic(t)]
    matrix = kernel.weight or max(made, key=lambda t: prod(t.shape), default=None)
    if matrix is None:
        raise ValueError(f"{kernel.name}: a product without a matrix of fixed shape")
    inner = matrix.shape[-2]
    rows = [t for t in kernel.inputs if dynamic(t) and t.shape[-1] == inner]
    if not rows:
        shapes = ", ".join(str(t.shape) for t in kernel.inputs)
        raise ValueError(f"{kernel.name}: no operand of {inner} columns among {shapes}")
    # Beside x·W a fused kernel may read what is added to it, in another type and as wide.
    return next((t for t in rows if t.type == matrix.type), rows[0]), matrix


def _queries_and_keys(kernel: Kernel) -> tuple[PlanTensor, PlanTensor]:
    """The first two of attention's three large operands."""
    operands = [tensor for tensor in kernel.inputs if head_width(tensor) is not None]
    if len(operands) != 3:
        shapes = ", ".join(str(t.shape) for t in kernel.inputs)
        raise ValueError(f"{kernel.name}: expected queries, keys and values, got {shapes}")
    return operands[0], operands[1]
