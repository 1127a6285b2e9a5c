"""Tasks: what a name may be, and the numbers of a switchable bundle's ``task_id``."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from runtimes.base import Arrays
from runtimes.errors import InputError

BASE_TASK = "base"  # the model without an adapter
TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # names become folders


def check_task_ids(inputs: Arrays, tasks: Sequence[str]) -> None:
    """Refuse an unknown number, which the graph would silently take for the base model.

    ``tasks`` are the names that ``task_id`` counts; without any there is nothing to check.
    """
    if not tasks or "task_id" not in inputs:
        return
    for number in np.unique(inputs["task_id"]):
        if not -1 <= number < len(tasks):
            listed = ", ".join(f"{i} {name}" for i, name in enumerate(tasks))
            raise InputError(f"task_id: got {number}, expected one of -1 base, {listed}")
