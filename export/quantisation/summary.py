"""What an INT8 bundle says about itself: ``calibration.json``, ``report.html``, the manifest."""

from __future__ import annotations

from collections.abc import Mapping
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


def summary(
    plan: PrecisionPlan, calibration: Calibration, modules: Mapping[str, Module]
) -> dict[str, Any]:
    """The manifest's ``quantisation``: what is in INT8, what is not and why."""
    return {
        "int8_share": work(modules, plan.int8.keys()),
        "int8": list(plan.int8),
        "fallback": dict(plan.fallback),
        "fallback_type": plan.dtype,
        "observer": calibration.settings["observer"],
        "calibration_key": calibration.key,
        "corpus_sha256": calibration.corpus["sha256"],
    }


def details(
    plan: PrecisionPlan,
    calibration: Calibration,
    modules: Mapping[str, Module],
    verdict: Verdict,
) -> dict[str, Any]:
    """``parity.json``'s ``int8``: the figures that the report draws."""
    sensitivity = sensitivities(calibration)
    return summary(plan, calibration, modules) | {
        "settings": dict(calibration.settings),
        "corpus": dict(calibration.corpus),
        "retrieval": verdict.retrieval,
        "gemms": [
            {
                "name": name,
                "work": work(modules, [name]),
                "precision": "int8" if name in plan.int8 else plan.dtype,
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
            "int8": dict(figures),
        },
    )
