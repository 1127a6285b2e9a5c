"""Scores side by side: their means, and whether a bundle's are the reference's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from export.evaluation.published import Cell
from runtimes.choices import Embeddings, OutputType, Precision
from runtimes.errors import GateError, InputError
from runtimes.tables import gate_of

GATED_TYPES = ("STS", "Retrieval")
REFERENCE = "checkpoint"  # its column's name


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one score is of, with the task's type, its main metric and its data's revision."""

    cell: Cell
    task_type: str
    metric: str
    dataset_revision: str


@dataclass(frozen=True, kw_only=True)
class Column:
    """One contender's main scores; ``precision`` is None for the reference.

    ``name`` and ``revision`` are those that mteb's result files are kept under.
    """

    label: str
    precision: Precision | None
    name: str
    revision: str
    scores: Mapping[Cell, float]
    embeddings: Embeddings = Embeddings.SAME


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured: a row per score, the bundles' columns and, where there is one, the
    reference's.
    """

    rows: Sequence[Row]
    columns: Sequence[Column]
    reference: Column | None = None

    def means(self, column: Column) -> dict[str, float]:
        """By type of task, the mean over its tasks of the mean over each one's cells."""
        by_type: dict[str, dict[str, list[float]]] = {}
        for row in self.rows:
            tasks = by_type.setdefault(row.task_type, {})
            tasks.setdefault(row.cell.task, []).append(column.scores[row.cell])
        return {kind: fmean(map(fmean, tasks.values())) for kind, tasks in by_type.items()}


def check_gateable(task_types: Iterable[str], *, has_reference: bool, output: OutputType) -> None:
    """Raise :class:`InputError` where the gate would have nothing to compare."""
    if not has_reference:
        raise InputError("--gate: compares with the checkpoint; name it with --reference")
    if output is not OutputType.FLOAT32:
        raise InputError(
            "--gate: judges engines, so it takes --output-type float32; what a shorter type loses "
            "is the type's"
        )
    if not set(GATED_TYPES) & set(task_types):
        raise InputError(
            f"--gate: judges the means of {' and '.join(GATED_TYPES)}, and --tasks has neither"
        )


def gate_failures(evaluation: Evaluation) -> list[str]:
    """Which means of which bundles are not the reference's; empty where all are.

    The limit is the gate's ``max_score_change``, up or down: a better score is a different
    engine too. A score that is not a number passes nothing.
    """
    if evaluation.reference is None:
        raise ValueError("nothing to compare with")
    exact, failures = evaluation.means(evaluation.reference), []
    for column in evaluation.columns:
        if column.precision is None:
            continue
        limit = gate_of(column.precision, column.embeddings).max_score_change
        for kind, mean in evaluation.means(column).items():
            change = mean - exact[kind]
            if kind in GATED_TYPES and not abs(change) <= limit:
                failures.append(
                    f"{column.label}: mean of {kind} {mean:.6f}, the checkpoint's "
                    f"{exact[kind]:.6f}, a difference of {change:+.6f}, expected at most {limit}"
                )
    return failures


def require_gate(evaluation: Evaluation) -> None:
    """Raise :class:`GateError`, which names every mean that departs."""
    if failures := gate_failures(evaluation):
        raise GateError("; ".join(failures))
