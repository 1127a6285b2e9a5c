"""What a call moves and computes: bytes and floating-point operations of each kernel of a plan.

A plan's dimensions that are known at run time are -1 without a name, so each is derived:

- one such dimension counts texts or tokens of all texts (batch · tokens). A kernel works row by
  row but for the pooling, so its results have its operands' rows; three and more dimensions of
  which the second is 1 (``[-1, 1, 256]``), and one alone (``[-1]``), are one row per text;
- two count batch and tokens, and in attention's own operands of three dimensions, where the heads
  are folded into the first, batch · heads and tokens;
- three are attention's scores, ``[batch, heads, tokens, tokens]``.

Bytes are those of a cold cache: every operand is read or written once, whole. What a kernel reads
under one name counts at most as much as was written there (slices of Q, K and V are apart, two
readings of one table are not), and of a table that is gathered from, one row per token. What stays
inside a kernel is not in a plan.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from export.engines.plan import ELEMENT_BYTES, Kernel, KernelKind, Plan, PlanTensor


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One call: ``batch`` texts of ``tokens`` each, by an encoder with this many ``heads``."""

    batch: int
    tokens: int
    heads: int

    def __post_init__(self) -> None:
        if min(self.batch, self.tokens, self.heads) < 1:
            raise ValueError(f"a workload of {self}, expected at least one of each")

    @property
    def rows(self) -> int:
        """The tokens of all texts."""
        return self.batch * self.tokens


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

    Raises :class:`ValueError` for a type whose size is not known and for a shape that none of the
    rules above explains: a wrong number would pass for a right one.
    """
    sizes = _Sizes.of(plan, workload)
    return tuple(_kernel_traffic(kernel, sizes) for kernel in plan.launches)


def _kernel_traffic(kernel: Kernel, sizes: _Sizes) -> KernelTraffic:
    views: dict[str, list[float]] = {}
    for tensor in kernel.inputs:
        views.setdefault(tensor.name, []).append(sizes.bytes(tensor))
    return KernelTraffic(
        kernel=kernel,
        read=sum(min(sum(v), sizes.whole.get(name, max(v))) for name, v in views.items()),
        constants=sum(_constant_bytes(kernel, c, sizes) for c in kernel.constants),
        written=sum(sizes.bytes(tensor) for tensor in kernel.outputs),
        flops=_flops(kernel, sizes),
        operands=_operands(kernel),
    )


def _constant_bytes(kernel: Kernel, constant: PlanTensor, sizes: _Sizes) -> float:
    """Of a matrix beside activations in generated code, the rows that the tokens ask for.

    Such a kernel multiplies no matrices, so it gathers from it. Without activations (a weight
    that is converted in every call) it reads it whole.
    """
    whole = sizes.bytes(constant)
    gathers = kernel.kind is KernelKind.GENERATED and any(_dynamic(t) for t in kernel.inputs)
    if not gathers or len(constant.shape) != 2:
        return whole
    table_rows = constant.shape[0]
    return whole / table_rows * min(table_rows, sizes.workload.rows)


def _operands(kernel: Kernel) -> tuple[str, str] | None:
    if kernel.is_attention:
        queries, keys = _attention_operands(kernel)[:2]
        return queries.type, keys.type
    if not kernel.is_product:
        return None
    activation, matrix = _factors(kernel)
    return activation.type, matrix.type


def _flops(kernel: Kernel, sizes: _Sizes) -> int:
    if kernel.is_attention:  # queries · keys, then scores · values
        queries = _attention_operands(kernel)[0]
        return 4 * sizes.elements(queries) * sizes.workload.tokens
    if not kernel.is_product:
        return 0
    activation, matrix = _factors(kernel)
    inner, columns = matrix.shape[-2:]
    rows, rest = divmod(sizes.elements(activation), inner)
    if rest:
        raise ValueError(
            f"{kernel.name}: {activation.shape} times {matrix.shape}: expected rows of {inner}"
        )
    return 2 * rows * inner * columns


def _factors(kernel: Kernel) -> tuple[PlanTensor, PlanTensor]:
    """A product's activation ``[rows, K]`` and its matrix ``[K, N]``.

    The matrix is a constant, or the operand of fixed shape that another kernel made of one.
    """
    made = [t for t in kernel.inputs if len(t.shape) > 1 and not _dynamic(t)]
    matrix = kernel.weight or max(made, key=lambda t: prod(t.shape), default=None)
    if matrix is None:
        raise ValueError(f"{kernel.name}: a product without a matrix of fixed shape")
    inner = matrix.shape[-2]
    rows = [t for t in kernel.inputs if _dynamic(t) and t.shape[-1] == inner]
    if not rows:
        shapes = ", ".join(str(t.shape) for t in kernel.inputs)
        raise ValueError(f"{kernel.name}: no operand of {inner} columns among {shapes}")
    return rows[0], matrix


def _attention_operands(kernel: Kernel) -> tuple[PlanTensor, ...]:
    """Queries, keys and values, in an order in which queries and keys come first."""
    operands = tuple(t for t in kernel.inputs if _head_width(t) is not None)
    if len(operands) != 3:
        shapes = ", ".join(str(t.shape) for t in kernel.inputs)
        raise ValueError(f"{kernel.name}: expected queries, keys and values, got {shapes}")
    return operands


def _head_width(tensor: PlanTensor) -> int | None:
    """The width of a head where ``tensor`` is shaped like queries, keys or values."""
    fixed = [d for d in tensor.shape if d != -1]
    wide = tensor.shape.count(-1) == 2 and fixed and fixed[-1] > 1
    return fixed[-1] if wide else None


def _dynamic(tensor: PlanTensor) -> bool:
    return -1 in tensor.shape


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    """Sizes in one workload.

    ``per_text`` names the tensors of one run-time dimension that have a row per text, ``folded``
    those in which attention's heads are part of the first dimension. ``whole`` are the bytes that
    were written under a name.
    """

    workload: Workload
    per_text: frozenset[str]
    folded: frozenset[str]
    whole: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def of(plan: Plan, workload: Workload) -> _Sizes:
        sizes = _Sizes(workload=workload, per_text=_per_text(plan), folded=_folded(plan))
        for kernel in plan.kernels:
            for tensor in kernel.outputs:
                # Several kernels may each write a slice of one buffer.
                before = sizes.whole.get(tensor.name, 0)
                sizes.whole[tensor.name] = before + sizes.bytes(tensor)
        return sizes

    def elements(self, tensor: PlanTensor) -> int:
        """How many numbers ``tensor`` holds."""
        fixed = prod(d for d in tensor.shape if d != -1)
        load, unknown = self.workload, tensor.shape.count(-1)
        match unknown:
            case 0:
                return fixed
            case 1:
                return fixed * (load.batch if tensor.name in self.per_text else load.rows)
            case 2:
                folded = tensor.name in self.folded and len(tensor.shape) == 3
                return fixed * load.rows * (load.heads if folded else 1)
            case 3 if len(tensor.shape) == 4 and tensor.shape[1] == load.heads:
                return fixed * load.rows * load.tokens
        raise ValueError(f"{tensor.name}: a shape {tensor.shape} that cannot be explained")

    def bytes(self, tensor: PlanTensor) -> float:
        """The bytes that ``tensor`` takes."""
        if tensor.type not in ELEMENT_BYTES:
            known = ", ".join(ELEMENT_BYTES)
            raise ValueError(f"{tensor.name}: of type {tensor.type!r}, expected one of {known}")
        return self.elements(tensor) * ELEMENT_BYTES[tensor.type]


def _folded(plan: Plan) -> frozenset[str]:
    """Attention's operands and results. The shape alone would not tell a head from a narrow row."""
    return frozenset(
        tensor.name
        for kernel in plan.attentions
        for tensor in (*kernel.inputs, *kernel.outputs)
        if _head_width(tensor) is not None
    )


def _per_text(plan: Plan) -> frozenset[str]:
    """The names of tensors with one run-time dimension that is the batch.

    Every view of a name is asked, because a view of two dimensions does not tell; where none
    tells, a result has a row per text if all that its kernel reads has.
    """
    told: dict[str, bool] = {}
    for kernel in plan.kernels:
        for tensor in (*kernel.inputs, *kernel.outputs):
            if (says := _says_per_text(tensor)) is not None:
                told[tensor.name] = says
    for kernel in plan.kernels:
        read = [told.get(t.name, False) for t in kernel.inputs if _dynamic(t)]
        for tensor in kernel.outputs:
            told.setdefault(tensor.name, bool(read) and all(read))
    return frozenset(name for name, per_text in told.items() if per_text)


def _says_per_text(tensor: PlanTensor) -> bool | None:
    """Whether the shape counts texts and no tokens; None where it does not tell."""
    shape = tensor.shape
    if shape.count(-1) != 1:
        return False if -1 in shape else None
    if len(shape) == 2:
        return None
    return len(shape) == 1 or (shape[0] == -1 and shape[1] == 1)
