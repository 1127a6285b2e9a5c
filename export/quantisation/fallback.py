"""Mixed precision: which GEMMs leave INT8 when the gate does not pass.

Every attempt is judged by the gate itself, on the graphs that would be shipped. A GEMM's
sensitivity is ``1 - cosine`` of the vectors when it alone is in INT8; these add up well enough to
say which GEMMs to give up first, and never decide by themselves whether a bundle is good.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import numpy as np

from calibration.table import Calibration
from export.checkpoint.names import Module
from export.console.progress import log
from export.graph.gemms import work
from export.graph.precision_plan import GemmRange, PrecisionPlan
from runtimes.errors import GateError
from runtimes.schemes import Scheme

T = TypeVar("T")
_STEP = 1 / 3  # of the predicted error that is left, given up at each attempt


def until_it_passes(
    attempt: Callable[[PrecisionPlan], T],
    calibration: Calibration,
    modules: Mapping[str, Module],
    scheme: Scheme,
    dtype: str,
    limit: float,
) -> tuple[PrecisionPlan, T]:
    """The first plan with which ``attempt`` raises no :class:`GateError`, and its result.

    Starts with every GEMM in INT8. Raises :class:`GateError` with the sensitivities on standard
    error once GEMMs with more than ``limit`` of the work would have to fall back.
    """
    out: dict[str, str] = {}
    while True:
        plan = make_plan(calibration, out, scheme, dtype)
        try:
            return plan, attempt(plan)
        except GateError as error:
            more = next_fallback(sensitivities(calibration), out.keys(), modules, limit)
            if not more:
                log.warning("%s", sensitivity_table(calibration, out, scheme))
                raise GateError(
                    f"{scheme.label} fails its gate even with {len(out)} of {len(modules)} GEMMs "
                    f"({work(modules, out.keys()):.0%} of the work, INT8_FALLBACK_MAX {limit:.0%}) "
                    f"in {dtype}: {error}"
                ) from error
            reason = str(error).removesuffix("; nothing was published")
            out |= {
                name: f"{reason}; alone in {scheme.label} it costs a mean 1 - cosine of {cost:.2e}"
                for name, cost in more.items()
            }
            log.info("%s: %s\n  falling back: %s", scheme.label, reason, ", ".join(more))


def make_plan(
    calibration: Calibration, out: Mapping[str, str], scheme: Scheme, dtype: str
) -> PrecisionPlan:
    """All calibrated GEMMs quantised but those in ``out``, which says why."""
    return PrecisionPlan(
        scheme=scheme,
        dtype=dtype,
        quantised={
            name: GemmRange(r.amplitude, np.asarray(r.channel_max, np.float32), r.alpha)
            for name, r in calibration.tensors.items()
            if name not in out
        },
        fallback=dict(out),
    )


def next_fallback(
    sensitivity: Mapping[str, float],
    out: Collection[str],
    modules: Mapping[str, Module],
    limit: float,
) -> dict[str, float]:
    """The most sensitive GEMMs that make up a third of the error left, within ``limit``.

    Empty where not even one more may fall back.
    """
    left = {name: value for name, value in sensitivity.items() if name not in out}
    goal, chosen = _STEP * sum(left.values()), dict[str, float]()
    for name in sorted(left, key=lambda n: -left[n]):
        if sum(chosen.values()) >= goal and chosen:
            break
        if work(modules, {*out, *chosen, name}) > limit:
            break
        chosen[name] = left[name]
    return chosen


def sensitivities(calibration: Calibration) -> dict[str, float]:
    """Mean ``1 - cosine`` with only that GEMM in INT8, in graph order."""
    return {n: 1 - r.cosine for n, r in calibration.tensors.items() if r.cosine is not None}


def sensitivity_table(calibration: Calibration, out: Collection[str], scheme: Scheme) -> str:
    """A line per GEMM, the most sensitive first."""
    lines = [f"{'GEMM':34} {'1 - cosine':>10} {'output error':>12}  alpha  precision"]
    ranked = sorted(calibration.tensors.items(), key=lambda item: item[1].cosine or 0)
    for name, r in ranked:
        lines.append(
            f"{name:34} {1 - (r.cosine or 0):10.2e} {r.output_error or 0:12.2e} {r.alpha:6.1f}  "
            f"{'fell back' if name in out else scheme.precision}"
        )
    return "\n".join(lines)
