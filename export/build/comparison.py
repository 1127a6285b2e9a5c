"""Calibrations compared with the model's weights at hand, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from calibration.compare import Reads
from export.build.inputs import BuildInputs, open_build
from export.build.resolve import calibration_spec
from export.bundle.plan import plan_bundle
from export.checkpoint.source import SAMPLE
from export.graph.gemms import gemm_modules
from export.graph.weights import Contents, merged_matrix
from export.quantisation.compare import Comparison, Named, compare, open_table
from export.request import BuildRequest
from runtimes.choices import BASE_TASK


def compare_calibrations(paths: Sequence[Path], request: BuildRequest) -> Comparison:
    """As :func:`export.quantisation.compare.compare`, for files or bundles at ``paths``.

    The weights are those of ``MODEL``, or of the sample, where the calibrations are of it.
    """
    tables = [open_table(path) for path in paths]
    two = len(tables) == 2 and request.calibration_data is None
    two = two and any(entry.alpha for named in tables for entry in named.table.ranges.values())
    return compare(tables, request, _reads(tables, request) if two else None)


def _reads(tables: Sequence[Named], request: BuildRequest) -> Reads | None:
    """What the weights of both calibrations' encoder are; None where ``MODEL`` is another."""
    named = replace(request, model=request.model or str(SAMPLE))  # nothing is built of a default
    inputs = open_build(calibration_spec(named))
    tasks = {one.table.task for one in tables}
    if len(tasks) > 1 or {one.table.model_sha256 for one in tables} != {inputs.sha256}:
        return None
    contents = _contents(inputs, *tasks)
    if contents is None:
        return None
    names = gemm_modules(inputs.checkpoint.config)
    return {name: np.abs(merged_matrix(contents, name)).max(axis=1) for name in names}


def _contents(inputs: BuildInputs, task: str) -> Contents | None:
    """The weights of the bundle that is calibrated under this name, of any task."""
    plans = (
        plan_bundle(inputs.spec, inputs.checkpoint, name, shared=False)
        for name in (*inputs.checkpoint.tasks, BASE_TASK)
    )
    return next((plan.contents for plan in plans if plan.stem == task), None)
