"""What an engine executes: the kernels that the compiler made, as typed records.

TensorRT-RTX compiles with no GPU present, but only a GPU could load the engine to ask it, so its
plan is read from the builder's log (:mod:`export.engines.plan_log`). Full TensorRT loads its engine
on the GPU that built it, whose inspector gives JSON.

Every kernel's tactic is chosen on the GPU, so types, shapes and launches are known here and
which library kernel runs is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import Annotated

from msgspec import Meta

from runtimes.typed_json import Plain


class KernelKind(StrEnum):
    """What the compiler calls a step of its plan."""

    GEMM = "gemm"  # a library's product
    FUSION = "runtime_fusion"  # a product with what follows it
    GENERATED = "kgen"  # element-wise work, data movement, and fused attention
    FUNCTION = "runtime_function"  # a library call that is no product
    COPY = "copy"
    SHAPE = "shape_call"  # on the host
    SIGNAL = "signal"  # events between streams
    WAIT = "wait"
    ALLOCATE = "allocate"  # within a call: where attention is not fused
    DEALLOCATE = "deallocate"
    OTHER = "other"  # a word that this version does not know: taken for a launch

    @classmethod
    def of(cls, word: str) -> KernelKind:
        """The compiler's word, or OTHER."""
        return next((kind for kind in cls if kind == word), cls.OTHER)


# On the host or between streams: nothing is launched.
_NO_LAUNCH = (
    KernelKind.SHAPE,
    KernelKind.SIGNAL,
    KernelKind.WAIT,
    KernelKind.ALLOCATE,
    KernelKind.DEALLOCATE,
)
ELEMENT_BYTES: Mapping[str, float] = {
    "Float": 4,
    "Half": 2,
    "BFloat16": 2,
    "FP8": 1,
    "Int8": 1,
    "Int4": 0.5,
    "Int32": 4,
    "Int64": 8,
    "Bool": 1,
    "UInt8": 1,
}
# Longer than a manifest's names: the compiler joins those of merged nodes.
Name = Annotated[str, Meta(pattern=r"^[ -~]{0,2000}\Z")]


@dataclass(frozen=True, kw_only=True)
class PlanTensor:
    """An operand of a kernel. -1 in ``shape`` is known at run time; ``type`` is TensorRT's word."""

    name: Name
    shape: tuple[int, ...]
    type: Plain

    def __str__(self) -> str:
        return f"{self.type} [{', '.join('?' if n < 0 else str(n) for n in self.shape)}]"

    @property
    def is_matrix(self) -> bool:
        """Whether its last two sizes are known, and neither is 1."""
        return len(self.shape) > 1 and min(self.shape[-2:]) > 1


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One step of the plan, in the order of its stream.

    ``nodes`` are the names of the ONNX nodes it came from. ``alpha`` is the factor by which a
    product is multiplied before its result is rounded to the output's type; None where it is not
    said. ``accumulator`` is the type in which attention adds up: "Half", "Float", or None.
    ``layer`` is the encoder's layer that it belongs to (:mod:`export.engines.plan_layers`), None
    where it runs once a call.
    """

    name: Name
    kind: KernelKind
    inputs: tuple[PlanTensor, ...] = ()
    constants: tuple[PlanTensor, ...] = ()
    outputs: tuple[PlanTensor, ...] = ()
    tactic: Plain = ""
    stream: int = 0
    nodes: tuple[Name, ...] = ()
    alpha: float | None = None
    accumulator: Plain | None = None
    layer: int | None = None

    @property
    def launched(self) -> bool:
        """Whether the GPU is given something to do."""
        return self.kind not in _NO_LAUNCH

    @property
    def is_attention(self) -> bool:
        """The whole of softmax(Q·K)·V in one kernel."""
        return "mha" in self.name

    @property
    def is_product(self) -> bool:
        """A matrix product with a weight, or with one that another kernel made."""
        return self.kind in (KernelKind.GEMM, KernelKind.FUSION)

    @property
    def weight(self) -> PlanTensor | None:
        """A product's stored matrix ``[..., K, N]``: its largest constant, or None."""
        matrices = [constant for constant in self.constants if constant.is_matrix]
        return max(matrices, key=lambda c: prod(c.shape), default=None) if self.is_product else None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one profile of an engine executes. ``builder`` is the compiler and its version."""

    builder: Plain
    gpu: Plain | None
    kernels: tuple[Kernel, ...]

    @property
    def launches(self) -> tuple[Kernel, ...]:
        """The kernels and copies of one call."""
        return tuple(k for k in self.kernels if k.launched)

    @property
    def products(self) -> tuple[Kernel, ...]:
        """The matrix products but for attention's."""
        return tuple(k for k in self.kernels if k.is_product)

    @property
    def attentions(self) -> tuple[Kernel, ...]:
        """The fused attention kernels."""
        return tuple(k for k in self.kernels if k.is_attention)
