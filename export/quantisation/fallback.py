"""Mixed precision: which GEMMs leave the scheme when the gate does not pass.

They are quantised no longer; where the scheme eases to another one, they take that first, and
only once no more may leave does the element type of the rest take the most sensitive of those.

Every attempt is judged by the gate itself, on the graphs that would be shipped. A GEMM's
sensitivity is ``1 - cosine`` of the vectors when it alone is quantised; these add up well enough to
say which GEMMs to give up first, and never decide by themselves whether a bundle is good.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from calibration.table import Calibration, Range
from export.checkpoint.names import Module
from export.console.progress import log
from export.graph.gemms import work
from export.graph.precision_plan import GemmRange, PrecisionPlan
from runtimes.errors import GateError
from runtimes.schemes import Scheme

_STEP = 1 / 3  # of the predicted error that is left, given up at each attempt


def quantise_everything(calibration: Calibration, scheme: Scheme, dtype: str) -> PrecisionPlan:
    """The plan to begin with: every calibrated GEMM quantised, the rest in ``dtype``."""
    return _plan(calibration, {}, scheme, dtype)


def fall_back(
    plan: PrecisionPlan,
    failure: str,
    calibration: Calibration,
    gemms: Mapping[str, Module],
    limit: float,
) -> PrecisionPlan:
    """The plan to try after ``plan`` failed the gate: its most sensitive GEMMs fall back.

    Raises :class:`GateError`, with the sensitivities as a warning, once GEMMs with more than
    ``limit`` of the work would have to.
    """
    label, fallback = plan.scheme.label, plan.fallback
    costs = sensitivities(calibration)
    more = next_fallback(costs, fallback.keys(), gemms, limit)
    eased, into = plan.eased, plan.dtype
    if more and plan.scheme.eases_to is not None:
        eased, into = eased | more.keys(), plan.scheme.eases_to
    elif not more and eased:
        more = next_fallback({name: costs[name] for name in eased}, (), gemms, limit)
        eased = eased - more.keys()
    if not more:
        log.warning("%s", sensitivity_table(calibration, fallback, plan.scheme))
        raise GateError(
            f"{label} fails its gate even with {len(fallback)} of {len(gemms)} GEMMs "
            f"({work(gemms, fallback.keys()):.0%} of the work, INT8_FALLBACK_MAX {limit:.0%}) "
            f"in {plan.dtype}: {failure}; nothing was published"
        )
    log.info("%s: %s\n  falling back to %s: %s", label, failure, into, ", ".join(more))
    reasons = {
        name: f"{failure}; alone in {label} it costs a mean 1 - cosine of {cost:.2e}"
        for name, cost in more.items()
    }
    following = _plan(calibration, {**fallback, **reasons}, plan.scheme, plan.dtype, eased)
    # What is left as it was keeps its numbers; another type has steps of its own.
    kept = {n: s for n, s in plan.steps.items() if n in following.quantised and n not in eased}
    return replace(following, steps=kept)


def _plan(
    calibration: Calibration,
    fallback: Mapping[str, str],
    scheme: Scheme,
    dtype: str,
    eased: frozenset[str] = frozenset(),
) -> PrecisionPlan:
    """All calibrated GEMMs quantised but those of ``fallback`` that are not ``eased``."""
    return PrecisionPlan(
        scheme=scheme,
        dtype=dtype,
        quantised={
            name: GemmRange(r.amplitude, np.asarray(r.channel_max, np.float32), r.alpha)
            if isinstance(r, Range)
            else None
            for name, r in calibration.tensors.items()
            if name not in fallback or name in eased
        },
        fallback=dict(fallback),
        eased=eased,
    )


def next_fallback(
    sensitivity: Mapping[str, float],
    fallback: Collection[str],
    gemms: Mapping[str, Module],
    limit: float,
) -> dict[str, float]:
    """The most sensitive GEMMs that make up a third of the error left, within ``limit``.

    Empty where not even one more may fall back.
    """
    left = {name: value for name, value in sensitivity.items() if name not in fallback}
    goal, chosen = _STEP * sum(left.values()), dict[str, float]()
    for name in sorted(left, key=lambda n: -left[n]):
        if sum(chosen.values()) >= goal and chosen:
            break
        if work(gemms, {*fallback, *chosen, name}) > limit:
            break
        chosen[name] = left[name]
    return chosen


def sensitivities(calibration: Calibration) -> dict[str, float]:
    """Mean ``1 - cosine`` with only that GEMM quantised, in graph order."""
    return {n: 1 - r.cosine for n, r in calibration.tensors.items() if r.cosine is not None}


def sensitivity_table(calibration: Calibration, fallback: Collection[str], scheme: Scheme) -> str:
    """A line per GEMM, the most sensitive first."""
    lines = [f"{'GEMM':34} {'1 - cosine':>10} {'output error':>12}  alpha  precision"]
    ranked = sorted(calibration.tensors.items(), key=lambda item: item[1].cosine or 0)
    for name, r in ranked:
        alpha = f"{r.alpha:6.1f}" if isinstance(r, Range) else f"{'-':>6}"
        lines.append(
            f"{name:34} {1 - (r.cosine or 0):10.2e} {r.output_error or 0:12.2e} {alpha}  "
            f"{'fell back' if name in fallback else scheme.precision}"
        )
    return "\n".join(lines)
