"""What a quantised bundle says of itself: ``calibration.json``, ``report.html``, the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from calibration.evidence import Loss
from calibration.table import Calibration, Range, write_calibration
from export.checkpoint.names import Module
from export.console.progress import log
from export.graph.gemms import work
from export.graph.precision_plan import PrecisionPlan
from export.quantisation.fallback import sensitivities
from export.report.figures import (
    Attempt,
    GemmFigures,
    QuantisationFigures,
    RangeFigures,
    ReportData,
)
from export.report.page import write_report
from runtimes.bundle_files import CALIBRATION_FILE, REPORT_FILE
from runtimes.files import replacing
from runtimes.manifest import Quantisation


def quantisation_figures(
    plan: PrecisionPlan,
    calibration: Calibration,
    gemms: Mapping[str, Module],
    losses: Mapping[str, tuple[Loss, ...]],
    looks: int,
    attempts: tuple[Attempt, ...],
) -> QuantisationFigures:
    """What the report draws; its ``summary`` is the manifest's ``quantisation``.

    ``gemms`` are all GEMMs of the layers, ``losses`` the gate's by report, after
    so many ``looks``, ``attempts`` what it judged.
    """
    sensitivity = sensitivities(calibration)
    return QuantisationFigures(
        summary=_summary(plan, calibration, gemms),
        settings=dict(calibration.settings),
        corpus=calibration.corpus,
        losses=losses,
        looks=looks,
        attempts=attempts,
        gemms=tuple(
            GemmFigures(
                name=name,
                work=work(gemms, [name]),
                precision=_precision(plan, name),
                reason=plan.fallback.get(name),
                sensitivity=sensitivity.get(name),
                output_error=entry.output_error,
                range=_observed(entry) if isinstance(entry, Range) else None,
            )
            for name, entry in calibration.tensors.items()
        ),
    )


def _precision(plan: PrecisionPlan, name: str) -> str:
    if name not in plan.fallback:
        return plan.scheme.precision
    return str(plan.scheme.eases_to) if name in plan.eased else plan.dtype


def _observed(entry: Range) -> RangeFigures:
    return RangeFigures(
        alpha=entry.alpha,
        observer=entry.observer,
        scale=entry.scale,
        amplitude=entry.amplitude,
        maximum=max(entry.channel_max),
    )


def _summary(
    plan: PrecisionPlan, calibration: Calibration, gemms: Mapping[str, Module]
) -> Quantisation:
    return Quantisation(
        scheme=plan.scheme.precision,
        share=work(gemms, plan.quantised.keys() - plan.eased),
        quantised=tuple(name for name in plan.quantised if name not in plan.eased),
        fallback=dict(plan.fallback),
        fallback_type=plan.dtype,
        eased=tuple(name for name in plan.quantised if name in plan.eased),
        eased_to=plan.scheme.eases_to if plan.eased else None,
        block=plan.scheme.operands.block,
        observer=str(calibration.settings["observer"]),
        calibration_key=calibration.key,
        corpus_sha256=calibration.corpus.sha256,
    )


def write_files(folder: Path, data: ReportData, calibration: Calibration) -> None:
    """``calibration.json`` and ``report.html``."""
    write_calibration(folder / CALIBRATION_FILE, calibration)
    write_report(folder / REPORT_FILE, data)


def write_refusal(path: Path, data: ReportData) -> None:
    """The page of a build that was refused; a former one is replaced in one step or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as staged:
            write_report(staged, data)
    except OSError as error:
        log.warning("warning: cannot write %s (%s)", path, error.strerror)
