"""A plan in a few figures: launches, products by type, and where bytes, operations and time go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import mode
from typing import TypeVar

from export.engines.plan import Kernel, KernelKind, Plan
from export.engines.plan_sizes import dynamic
from export.engines.predict import KernelTime
from export.engines.traffic import KernelTraffic, factors

_Key = TypeVar("_Key", bound=str)


class KernelClass(StrEnum):
    """What a kernel is for, in words that need no knowledge of the compiler's."""

    PRODUCT = "matrix products"
    ATTENTION = "attention"
    NORM = "sums and LayerNorm"
    ACTIVATION = "GELU"
    CONVERT = "weights converted in every call"
    MOVE = "layout, RoPE and other"
    ONCE = "once a call"  # masks, embeddings, pooling


# Parts of a generated kernel's name, which lists its operations.
_OPERATIONS = {"Erf": KernelClass.ACTIVATION, "Mean": KernelClass.NORM}


def class_of(kernel: Kernel) -> KernelClass:
    """The class of a kernel; a product outside the layers (the adapters' of the embeddings) too."""
    if kernel.is_attention:
        return KernelClass.ATTENTION
    if kernel.is_product:
        return KernelClass.PRODUCT
    if _converts(kernel):
        return KernelClass.CONVERT
    if kernel.layer is None:
        return KernelClass.ONCE
    found = (kind for part, kind in _OPERATIONS.items() if part in kernel.name)
    return next(found, KernelClass.MOVE)


def _converts(kernel: Kernel) -> bool:
    """It reads a stored matrix and no activation, and writes a matrix."""
    return (
        kernel.kind is KernelKind.GENERATED
        and not any(dynamic(tensor) for tensor in kernel.inputs)
        and any(constant.is_matrix for constant in kernel.constants)
        and any(len(t.shape) > 1 and not dynamic(t) for t in kernel.outputs)
    )


@dataclass(frozen=True, kw_only=True)
class PlanFigures:
    """What does not depend on the texts.

    ``products`` count the matrix products by their operands' types, activation and weight.
    ``per_layer`` are the launches of a layer, as most layers have them; ``accumulators`` the types
    in which the fused attention kernels add up.
    """

    launches: int
    per_layer: int
    streams: int
    products: Mapping[str, int]
    attentions: int
    accumulators: tuple[str, ...]

    @staticmethod
    def of(plan: Plan) -> PlanFigures:
        """The figures of one plan."""
        layers = Counter(k.layer for k in plan.launches if k.layer is not None)
        pairs = (factors(kernel) for kernel in plan.products)
        return PlanFigures(
            launches=len(plan.launches),
            per_layer=mode(layers.values()) if layers else 0,
            streams=len({kernel.stream for kernel in plan.launches}),
            products=dict(Counter(pair(f[0].type, f[1].type) for f in pairs if f).most_common()),
            attentions=len(plan.attentions),
            accumulators=tuple(sorted({k.accumulator or "not said" for k in plan.attentions})),
        )


def pair(activation: str, weight: str) -> str:
    """How the two types of a product are written."""
    return f"{activation}×{weight}"


def bytes_by_class(works: Iterable[KernelTraffic]) -> Mapping[KernelClass, float]:
    """Bytes moved, the most first."""
    return _summed((class_of(work.kernel), work.bytes) for work in works)


def flops_by_types(works: Iterable[KernelTraffic]) -> Mapping[str, float]:
    """Operations by what is multiplied, the most first; attention's stand apart."""
    return _summed(
        (f"attention, {name}" if work.kernel.is_attention else name, work.flops)
        for work in works
        if work.operands is not None
        for name in [pair(*work.operands)]
    )


def milliseconds_by_class(times: Sequence[KernelTime]) -> Mapping[KernelClass, float]:
    """Predicted time, the most first."""
    return _summed((class_of(time.work.kernel), time.milliseconds) for time in times)


def milliseconds_by_limit(times: Sequence[KernelTime]) -> Mapping[str, float]:
    """Predicted time by what bounds it."""
    sums = {"arithmetic": 0.0, "memory": 0.0, "launches": 0.0}
    for time in times:
        sums["launches"] += time.launch
        sums["arithmetic" if time.arithmetic > time.memory else "memory"] += max(
            time.arithmetic, time.memory
        )
    return sums


def _summed(items: Iterable[tuple[_Key, float]]) -> dict[_Key, float]:
    """The sums by key, the greatest first."""
    sums: dict[_Key, float] = {}
    for key, value in items:
        sums[key] = sums.get(key, 0) + value
    return dict(sorted(sums.items(), key=lambda item: -item[1]))
