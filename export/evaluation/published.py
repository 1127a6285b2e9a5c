"""Published scores of the model: data with their source, beside which a bundle's own are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from runtimes.typed_json import Plain, as_record, read_object

FILE = Path(__file__).parent / "data" / "published.json"


@dataclass(frozen=True, kw_only=True, order=True)
class Cell:
    """What one score is of: a task's split and subset, as mteb names them."""

    task: Plain
    split: Plain
    subset: Plain


@dataclass(frozen=True, kw_only=True)
class Score:
    """One published main score; ``dataset_revision`` of the data that it was measured on."""

    task: Plain
    split: Plain
    subset: Plain
    score: Annotated[float, Meta(ge=-1, le=1)]
    dataset_revision: Plain

    @property
    def cell(self) -> Cell:
        """What it is of."""
        return Cell(task=self.task, split=self.split, subset=self.subset)


@dataclass(frozen=True, kw_only=True)
class Published:
    """The file: whose scores, where they were read and when."""

    model: Plain
    revision: Plain
    source: Plain
    read: Plain
    scores: tuple[Score, ...]

    @property
    def by_cell(self) -> Mapping[Cell, Score]:
        """Each score by what it is of."""
        return {score.cell: score for score in self.scores}

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks' names, in the file's order."""
        return tuple(dict.fromkeys(score.task for score in self.scores))

    def cells(self, task: str) -> tuple[Cell, ...]:
        """What is published of a task; nothing for others."""
        return tuple(score.cell for score in self.scores if score.task == task)


@cache
def published() -> Published:
    """The project's file."""
    return as_record(read_object(FILE), Published, FILE, "install adaptrt again")
