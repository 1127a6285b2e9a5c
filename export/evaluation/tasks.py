"""Which MTEB tasks are run: the project's offline ones, the published ones, or any by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any

import mteb

from export.evaluation.offline import OFFLINE
from export.evaluation.published import published
from export.evaluation.spec import Preset
from runtimes.errors import InputError, shown

TaskMaker = Callable[[], Any]  # a task of mteb, new each time


def find_tasks(names: Sequence[str], preset: Preset) -> list[TaskMaker]:
    """What makes each task, in the order given; ``preset`` without names.

    A task with published scores is run on the splits and subsets that were published, any other
    on all that mteb evaluates. Raises :class:`InputError` for a name that mteb does not know,
    given twice, or of a task that is not of texts or made of others.
    """
    if not names:
        names = tuple(OFFLINE) if preset is Preset.FAST else published().tasks
    if doubled := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise InputError(f"--tasks: {shown(doubled[0])} is given twice; leave one out")
    return [_maker(name) for name in names]


def _maker(name: str) -> TaskMaker:
    if name in OFFLINE:
        return OFFLINE[name]
    cells = published().cells(name)
    make = partial(
        mteb.get_task,
        name,
        eval_splits=sorted({cell.split for cell in cells}) or None,
        hf_subsets=sorted({cell.subset for cell in cells} - {"default"}) or None,
    )
    try:
        task = make()
    except KeyError as error:
        raise InputError(f"--tasks: mteb has no {shown(name)}; {_nearest(name)}") from error
    if task.metadata.modalities != ["text"]:
        kinds = ", ".join(task.metadata.modalities)
        raise InputError(f"--tasks: {name} is a task of {kinds}, expected one of texts alone")
    if task.is_aggregate:
        parts = ",".join(part.metadata.name for part in task.metadata.tasks)
        raise InputError(f"--tasks: {name} is the mean of other tasks; name those: {parts}")
    return make


def _nearest(name: str) -> str:
    """The known names that look most like it, whatever their case."""
    known = {
        n.lower(): n
        for n in (*OFFLINE, *(t.metadata.name for t in mteb.get_tasks(exclude_superseded=False)))
    }
    if found := get_close_matches(name.lower(), known, n=3):
        return f"did you mean {', '.join(known[n] for n in found)}?"
    return "its documentation lists the tasks"
