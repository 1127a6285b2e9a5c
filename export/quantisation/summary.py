"""What a quantised bundle says of itself: ``calibration.json``, ``report.html``, the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from calibration.table import Calibration, write_calibration
from export.checkpoint.names import Module
from export.gate.judge import Verdict
from export.graph.gemms import work
from export.graph.precision_plan import PrecisionPlan
from export.quantisation.fallback import sensitivities
from export.report.page import write_report
from runtimes.bundle_files import CALIBRATION_FILE, REPORT_FILE
from runtimes.manifest import Quantisation


def summary(
    plan: PrecisionPlan, calibration: Calibration, modules: Mapping[str, Module]
) -> Quantisation:
    """The manifest's ``quantisation``: which GEMMs are quantised, which are not and why."""
    return Quantisation(
        scheme=plan.scheme.precision,
        share=work(modules, plan.quantised.keys()),
        quantised=tuple(plan.quantised),
        fallback=dict(plan.fallback),
        fallback_type=plan.dtype,
        observer=str(calibration.settings["observer"]),
        calibration_key=calibration.key,
        corpus_sha256=calibration.corpus["sha256"],
    )


def details(
    plan: PrecisionPlan,
    calibration: Calibration,
    modules: Mapping[str, Module],
    verdict: Verdict,
) -> dict[str, Any]:
    """``parity.json``'s ``quantisation``: the figures that the report draws."""
    sensitivity = sensitivities(calibration)
    return asdict(summary(plan, calibration, modules)) | {
        "settings": dict(calibration.settings),
        "corpus": dict(calibration.corpus),
        "retrieval": verdict.retrieval,
        "gemms": [
            {
                "name": name,
                "work": work(modules, [name]),
                "precision": plan.scheme.precision if name in plan.quantised else plan.dtype,
                "reason": plan.fallback.get(name),
                "sensitivity": sensitivity.get(name),
                "output_error": entry.output_error,
                "alpha": entry.alpha,
                "observer": entry.observer,
                "scale": entry.scale,
                "amplitude": entry.amplitude,
                "maximum": max(entry.channel_max),
            }
            for name, entry in calibration.tensors.items()
        ],
    }


def write_files(
    folder: Path,
    header: Mapping[str, Any],
    verdict: Verdict,
    calibration: Calibration,
    figures: Mapping[str, Any],
) -> None:
    """``calibration.json`` and ``report.html``."""
    write_calibration(folder / CALIBRATION_FILE, calibration)
    label, main = next(iter(verdict.reports.items()))
    write_report(
        folder / REPORT_FILE,
        {
            **header,
            "graph": label,
            **main.summary(),
            "texts": [vars(t) for t in main.texts],
            "reports": {name: r.summary() for name, r in verdict.reports.items()},
            "quantisation": dict(figures),
        },
    )
