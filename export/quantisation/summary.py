"""What a quantised bundle says of itself: ``calibration.json``, ``report.html``, the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from calibration.evidence import Loss
from calibration.table import Calibration, write_calibration
from export.checkpoint.names import Module
from export.graph.gemms import work
from export.graph.precision_plan import PrecisionPlan
from export.quantisation.fallback import sensitivities
from export.report.figures import GemmFigures, QuantisationFigures, ReportData
from export.report.page import write_report
from runtimes.bundle_files import CALIBRATION_FILE, REPORT_FILE
from runtimes.manifest import Quantisation


def quantisation_figures(
    plan: PrecisionPlan,
    calibration: Calibration,
    gemms: Mapping[str, Module],
    losses: Mapping[str, tuple[Loss, ...]],
    looks: int,
) -> QuantisationFigures:
    """What the report draws; its ``summary`` is the manifest's ``quantisation``.

    ``gemms`` are all GEMMs of the layers, ``losses`` the gate's by report, after
    so many ``looks``.
    """
    sensitivity = sensitivities(calibration)
    return QuantisationFigures(
        summary=_summary(plan, calibration, gemms),
        settings=dict(calibration.settings),
        corpus=calibration.corpus,
        losses=losses,
        looks=looks,
        gemms=tuple(
            GemmFigures(
                name=name,
                work=work(gemms, [name]),
                precision=plan.scheme.precision if name in plan.quantised else plan.dtype,
                reason=plan.fallback.get(name),
                sensitivity=sensitivity.get(name),
                output_error=entry.output_error,
                alpha=entry.alpha,
                observer=entry.observer,
                scale=entry.scale,
                amplitude=entry.amplitude,
                maximum=max(entry.channel_max),
            )
            for name, entry in calibration.tensors.items()
        ),
    )


def _summary(
    plan: PrecisionPlan, calibration: Calibration, gemms: Mapping[str, Module]
) -> Quantisation:
    return Quantisation(
        scheme=plan.scheme.precision,
        share=work(gemms, plan.quantised.keys()),
        quantised=tuple(plan.quantised),
        fallback=dict(plan.fallback),
        fallback_type=plan.dtype,
        observer=str(calibration.settings["observer"]),
        calibration_key=calibration.key,
        corpus_sha256=calibration.corpus.sha256,
    )


def write_files(folder: Path, data: ReportData, calibration: Calibration) -> None:
    """``calibration.json`` and ``report.html``."""
    write_calibration(folder / CALIBRATION_FILE, calibration)
    write_report(folder / REPORT_FILE, data)
