"""Tasks: the numbers of a switchable bundle's ``task_id``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtimes.arrays import Arrays
from runtimes.errors import InputError
from runtimes.tensors import TASK_ID


def check_task_ids(inputs: Arrays, tasks: Sequence[str]) -> None:
    """Refuse an unknown number, which the graph would silently take for the base model.

    ``tasks`` are the names that ``task_id`` counts; without any there is nothing to check.
    """
    if not tasks or TASK_ID.name not in inputs:
        return
    for number in np.unique(inputs[TASK_ID.name]):
        if not -1 <= number < len(tasks):
            listed = ", ".join(f"{i} {name}" for i, name in enumerate(tasks))
            raise InputError(f"task_id: got {number}, expected one of -1 base, {listed}")
