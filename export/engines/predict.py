"""How long a plan will take on a named GPU: predicted, not measured.

Every kernel takes the longer of its arithmetic and its memory traffic, and a launch:

    time = Σ max(FLOP / (compute · peak), bytes / (memory · bandwidth)) + launch_cycles / clock

The three shares are the same for all GPUs and types; ``python -m tests.bench.prediction`` fits
them to published times of BERT-large and says how far it is off for a GPU that it has not seen.
A kernel's launch is counted in clock cycles, because small kernels wait for latencies on the chip:
in microseconds it would not fit an A100 and an L40S together, and the share of the bandwidth would
come out above one.

What the formula does not know: kernels of different streams that overlap, activations that stay in
the L2 cache, rows that are not aligned, kernels that the library chooses badly, and a card that is
slowed by its power limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from export.engines.gpus import Gpu
from export.engines.plan import Plan
from export.engines.traffic import KernelTraffic, Workload, traffic

PREDICTED = "predicted, not measured"
# From the narrowest: a product of two types is computed in the wider one.
_WIDTHS = ("Int4", "Int8", "FP8", "Half", "BFloat16", "Float")
# Batch and tokens of the calls that are shown: one short text, a batch, one long text.
CALLS = ((1, 128), (8, 512), (1, 8192))
MIN_GAIN = 0.05  # less is not worth another engine's accuracy


class TypeUnsupportedError(ValueError):
    """A GPU has no products of a type: that plan cannot run on it."""


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Shares of a data sheet's peaks that kernels reach, and where they come from.

    ``launch_cycles`` are a launch's, at the boost clock. ``version`` changes with any of them.
    """

    compute: float
    memory: float
    launch_cycles: float
    version: str
    source: str


EFFICIENCY = Efficiency(
    compute=0.601,
    memory=0.826,
    launch_cycles=8060,
    version="2026-11-28",
    source="fitted to NVIDIA's published times of BERT-large on A100, A30, L4 and L40S",
)


@dataclass(frozen=True, kw_only=True)
class KernelTime:
    """The three parts of one kernel's time, in milliseconds."""

    work: KernelTraffic
    arithmetic: float
    memory: float
    launch: float

    @property
    def milliseconds(self) -> float:
        """What the kernel takes."""
        return max(self.arithmetic, self.memory) + self.launch


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One call of a plan on one GPU: predicted, not measured."""

    gpu: Gpu
    workload: Workload
    kernels: tuple[KernelTime, ...]
    efficiency: Efficiency

    @property
    def milliseconds(self) -> float:
        """What the call takes."""
        return sum(kernel.milliseconds for kernel in self.kernels)


def predict(
    plan: Plan, workload: Workload, gpu: Gpu, efficiency: Efficiency = EFFICIENCY
) -> Prediction:
    """The time of one call.

    Raises :class:`TypeUnsupportedError` where the GPU cannot multiply a type, and
    :class:`ValueError` where the plan cannot be explained (:func:`traffic`).
    """
    return timed(traffic(plan, workload), workload, gpu, efficiency)


def timed(
    works: Iterable[KernelTraffic], workload: Workload, gpu: Gpu, efficiency: Efficiency
) -> Prediction:
    """:func:`predict` for a plan whose traffic is known already."""
    launch = efficiency.launch_cycles / (gpu.clock * 1e6)
    return Prediction(
        gpu=gpu,
        workload=workload,
        kernels=tuple(
            KernelTime(
                work=work,
                arithmetic=work.flops / (efficiency.compute * peak(work, gpu) * 1e9),
                memory=work.bytes / (efficiency.memory * gpu.bandwidth * 1e6),
                launch=launch,
            )
            for work in works
        ),
        efficiency=efficiency,
    )


def peak(work: KernelTraffic, gpu: Gpu) -> float:
    """The peak in TFLOP/s that bounds a kernel; any where it multiplies nothing.

    Products add up in FP32 (the library's kernels are chosen on the GPU, so the plan does not
    say), attention in what the engine says.
    """
    if work.operands is None:
        return 1.0
    if unknown := [kind for kind in work.operands if kind not in _WIDTHS]:
        raise ValueError(
            f"{work.kernel.name}: multiplies {unknown[0]!r}, expected some of {', '.join(_WIDTHS)}"
        )
    kind = max(work.operands, key=_WIDTHS.index)
    if kind == "Half" and work.kernel.is_attention and work.kernel.accumulator == "Half":
        return gpu.half_accumulators
    if kind not in gpu.tflops:
        raise TypeUnsupportedError(
            f"{gpu.name} ({gpu.sm}) has no {kind} products, but {work.kernel.name} is one"
        )
    return gpu.tflops[kind]


def usual_calls(heads: int, max_batch: int, max_tokens: int) -> tuple[Workload, ...]:
    """:data:`CALLS`, cut to the limits of a bundle."""
    fitting = dict.fromkeys((min(b, max_batch), min(t, max_tokens)) for b, t in CALLS)
    return tuple(Workload(batch=b, tokens=t, heads=heads) for b, t in fitting)


def nearest(gpu: Gpu, plans: Mapping[str, Plan]) -> tuple[str, Plan]:
    """The plan of the GPU's own architecture; else of the nearest below it, else the first."""
    wanted = _number(gpu.sm)
    below = [item for item in plans.items() if _number(item[1].gpu) <= wanted]
    own = max(below, key=lambda item: _number(item[1].gpu), default=None)
    return next(iter(plans.items())) if own is None else own


def _number(sm: str | None) -> int:
    """86 of "sm86"; 0 of an engine that names none."""
    return int((sm or "sm0").removeprefix("sm"))


def rank(plans: Mapping[str, Plan], workload: Workload, gpu: Gpu) -> list[tuple[str, Prediction]]:
    """Engines by name, the one predicted fastest first; those the GPU cannot run are left out."""
    found = []
    for name, plan in plans.items():
        try:
            found.append((name, predict(plan, workload, gpu)))
        except TypeUnsupportedError:
            continue
    return sorted(found, key=lambda pair: pair[1].milliseconds)


def gain(before: Plan, after: Plan, workload: Workload, gpu: Gpu) -> float:
    """How much faster ``after`` is predicted to be: 0.05 is 5 % less time per call."""
    old, new = (predict(plan, workload, gpu).milliseconds for plan in (before, after))
    return 1 - new / old


def worthwhile(
    before: Plan, after: Plan, workloads: Sequence[Workload], gpu: Gpu, least: float = MIN_GAIN
) -> tuple[Workload, ...]:
    """Those calls that ``after`` is predicted to make in at least ``least`` less time.

    Short ones wait for launches, in long ones attention outweighs the products.
    """
    return tuple(load for load in workloads if gain(before, after, load, gpu) >= least)
