"""Mutated calibrations, given to everything that takes one."""

from __future__ import annotations

from random import Random

from tests.torture.mutations.bases import BUILD, MODEL, NAME, TASK, Bases, calibrate
from tests.torture.mutations.checkpoints import broken, edit_file
from tests.torture.mutations.judgement import Case
from tests.torture.mutations.places import Place, linked


def calibration(rng: Random, place: Place, bases: Bases) -> Case:
    """Compared, merged, found beside OUT by the next run, or built from in INT8."""
    model = linked(bases.get("original"), place.input / MODEL)
    folder = linked(bases.get("calibration"), place.input / "calibration")
    file = folder / "calibration.json"
    what = edit_file(rng, file)
    other = str(bases.get("calibration-other") / "calibration.json")
    both = f"{file},{other}"
    begin = calibrate(model, place.out)
    way = rng.choice(("compare", "compare", "json", "merge", "merge", "engine"))
    match way:
        case "compare":
            return Case(argv=(*begin, "--compare", both), what=what)
        case "json":
            return Case(argv=(*begin, "--compare", both, "--json"), what=what)
        case "merge":
            return Case(argv=(*begin, "--merge", both), what=what)
    final = place.out / MODEL / NAME
    options = ("--precision", "int8", "--calibration", str(file), "--calibration-texts", "32")
    argv = (*BUILD, "--model", str(model), "--out", str(place.out), "--task", TASK, *options)
    return Case(argv=argv, what=what, check=lambda: broken(final))
