"""The calibrations of bundles without the bundles: measured, or merged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from calibration.table import Calibration
from export.build.inputs import BuildInputs
from export.build.pipeline import tasks_of
from export.build.quantised import subject_of
from export.bundle.plan import plan_bundle
from export.quantisation.calibrate import calibration_of
from export.quantisation.merge import merge, merged_path
from runtimes.errors import InputError


def calibrate_bundles(
    inputs: BuildInputs, tasks: tuple[str, ...] | None, merged: Sequence[Path] = ()
) -> Iterator[tuple[Path, Calibration, bool]]:
    """The calibration of every bundle that ``build_bundles`` would build.

    Gives its file, its contents, and whether it was there already. With ``merged``, calibrations
    of one task, the one that covers them instead.
    """
    subjects = [
        subject_of(inputs, plan_bundle(inputs.spec, inputs.checkpoint, task, shared=False))
        for task in tasks_of(inputs, tasks)
    ]
    if merged:
        if len(subjects) > 1:
            raise InputError("MERGE: got TASK=all, expected the task of the calibrations")
        yield merged_path(subjects[0]), merge(subjects[0], merged), False
        return
    for subject in subjects:
        subject.stored()
    for subject in subjects:
        yield subject.path, *calibration_of(subject)
