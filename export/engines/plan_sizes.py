"""How large a plan's operands are in one call.

A plan's dimensions that are known at run time are -1 without a name, so each is derived:

- one such dimension counts texts or tokens of all texts (batch · tokens). A kernel works row by
  row but for the pooling, so its results have its operands' rows; three and more dimensions of
  which the second is 1 (``[-1, 1, 256]``), and one alone (``[-1]``), are one row per text;
- two count batch and tokens; in what attention reads and makes in three dimensions, where the
  heads are folded into the first, batch · heads and tokens; behind ``chunk_weights``, batch and
  chunks;
- three are ``[batch · heads, tokens, tokens]`` or ``[batch, heads, tokens, tokens]``, attention's
  scores, or ``[batch, chunks, tokens]``, ``chunk_weights``.

Shapes do not tell these apart (an adapter bank's rank may be a head's width), so names do: those
that fused attention, products of two activations and ``chunk_weights`` bring along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod

from export.engines.plan import ELEMENT_BYTES, Kernel, Plan, PlanTensor
from runtimes.heads import CHUNK_WEIGHTS


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One call: ``batch`` texts of ``tokens`` each, by an encoder with this many ``heads``.

    ``chunks`` are those of each text, where the graph has a chunk head.
    """

    batch: int
    tokens: int
    heads: int
    chunks: int = 1

    def __post_init__(self) -> None:
        if min(self.batch, self.tokens, self.heads, self.chunks) < 1:
            raise ValueError(f"a workload of {self}, expected at least one of each")

    @property
    def rows(self) -> int:
        """The tokens of all texts."""
        return self.batch * self.tokens


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes in one workload, by the names of tensors.

    ``per_text`` are those of one run-time dimension that have a row per text, ``folded`` those in
    which attention's heads are part of the first dimension, ``per_chunk`` those with a chunk's row.
    """

    workload: Workload
    per_text: frozenset[str]
    folded: frozenset[str]
    per_chunk: frozenset[str]

    @staticmethod
    def of(plan: Plan, workload: Workload) -> Sizes:
        """The names of ``plan``, in ``workload``."""
        per_chunk = _per_chunk(plan)
        return Sizes(
            workload=workload,
            per_text=_per_text(plan),
            folded=_folded(plan, per_chunk),
            per_chunk=per_chunk,
        )

    def elements(self, tensor: PlanTensor) -> int:
        """How many numbers ``tensor`` holds."""
        fixed = prod(d for d in tensor.shape if d != -1)
        load, rank = self.workload, len(tensor.shape)
        folded = rank == 3 and tensor.name in self.folded
        match tensor.shape.count(-1):
            case 0:
                return fixed
            case 1:
                return fixed * (load.batch if tensor.name in self.per_text else load.rows)
            case 2 if tensor.name in self.per_chunk:
                return fixed * load.batch * load.chunks
            case 2:
                return fixed * load.rows * (load.heads if folded else 1)
            case 3 if tensor.name in self.per_chunk:
                return fixed * load.rows * load.chunks
            case 3 if folded:
                return fixed * load.rows * load.heads * load.tokens
            case 3 if rank == 4 and tensor.shape[1] == load.heads:
                return fixed * load.rows * load.tokens
        raise ValueError(f"{tensor.name}: a shape {tensor.shape} that cannot be explained")

    def described(self, tensor: PlanTensor) -> str:
        """The shape in words: "tokens × 1024", whatever the layout."""
        fixed, rank = [d for d in tensor.shape if d != -1], len(tensor.shape)
        width = prod(fixed)
        folded = rank == 3 and tensor.name in self.folded
        match tensor.shape.count(-1):
            case 0:
                return " × ".join(str(d) for d in fixed if d > 1) or "1"
            case 1 if tensor.name in self.per_text:
                words = ["texts"]
            case 2 if tensor.name in self.per_chunk:
                words = ["chunks"]
            case 3 if tensor.name in self.per_chunk:
                words = ["tokens", "chunks"]
            case 3:
                words = ["tokens", "tokens"]
            case _:
                words = ["tokens"]
        width *= self.workload.heads if folded else 1
        return " × ".join([*words, *([str(width)] if width > 1 else [])])

    def bytes(self, tensor: PlanTensor) -> float:
        """The bytes that ``tensor`` takes."""
        if tensor.type not in ELEMENT_BYTES:
            known = ", ".join(ELEMENT_BYTES)
            raise ValueError(f"{tensor.name}: of type {tensor.type!r}, expected one of {known}")
        return self.elements(tensor) * ELEMENT_BYTES[tensor.type]


def dynamic(tensor: PlanTensor) -> bool:
    """Whether a size of it is known at run time only."""
    return -1 in tensor.shape


def head_width(tensor: PlanTensor) -> int | None:
    """The width of a head where ``tensor`` is shaped like queries, keys or values."""
    fixed = [d for d in tensor.shape if d != -1]
    return fixed[-1] if tensor.shape.count(-1) == 2 and fixed and fixed[-1] > 1 else None


def multiplies_activations(kernel: Kernel) -> bool:
    """A product of two operands of which neither is a weight: attention that is not fused."""
    return (
        kernel.is_product
        and kernel.weight is None
        and sum(dynamic(tensor) for tensor in kernel.inputs) > 1
        and all(dynamic(tensor) for tensor in kernel.inputs if len(tensor.shape) > 1)
    )


def _folded(plan: Plan, per_chunk: frozenset[str]) -> frozenset[str]:
    """What attention reads and makes, and what is made of that in the same layout."""
    found, widths = set[str](), set[int | None]()
    for kernel in plan.kernels:
        apart = multiplies_activations(kernel) and not _names(kernel.inputs) & per_chunk
        if apart or kernel.is_attention:
            operands = [t for t in (*kernel.inputs, *kernel.outputs) if _many(t)]
            found |= _names(operands)
            widths |= {head_width(tensor) for tensor in operands}
    last = {-1, 1, *widths}
    return _followed(plan, found, lambda t: len(t.shape) == 3, lambda t: t.shape[-1] in last)


def _many(tensor: PlanTensor) -> bool:
    return head_width(tensor) is not None or tensor.shape.count(-1) > 2


def _per_chunk(plan: Plan) -> frozenset[str]:
    return _followed(plan, {CHUNK_WEIGHTS.name}, lambda _: True, lambda _: True)


def _followed(
    plan: Plan,
    names: set[str],
    layout: Callable[[PlanTensor], bool],
    makes: Callable[[PlanTensor], bool],
) -> frozenset[str]:
    """``names`` and what kernels make of them that ``makes`` holds for, both in ``layout``."""
    for kernel in plan.kernels:
        if _names(t for t in kernel.inputs if layout(t)) & names:
            names |= _names(t for t in kernel.outputs if layout(t) and makes(t))
    return frozenset(names)


def _names(tensors: Iterable[PlanTensor]) -> set[str]:
    return {tensor.name for tensor in tensors}


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
        read = [told.get(t.name, False) for t in kernel.inputs if dynamic(t)]
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
