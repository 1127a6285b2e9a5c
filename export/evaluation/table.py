"""An evaluation as text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from export.evaluation.published import Published
from export.evaluation.scores import Column, Evaluation, Row

_OTHER_DATA = "*"
_NONE = "-"


def text_lines(evaluation: Evaluation, published: Published) -> Iterator[str]:
    """A line per score, and one per mean of several: published, the checkpoint's, each bundle's and
    its difference from the checkpoint's.
    """
    known = published.by_cell
    columns = _columns(evaluation)
    with_published = any(row.cell in known for row in evaluation.rows)
    starred = False
    lines = [["", "published", *_heading(evaluation)]]
    for row in evaluation.rows:
        score = known.get(row.cell)
        other = score is not None and score.dataset_revision != row.dataset_revision
        starred |= other
        shown = _NONE if score is None else f"{score.score:.5f}{_OTHER_DATA if other else ''}"
        values = {column.label: column.scores[row.cell] for column in columns}
        lines.append([_name(row), shown, *_cells(evaluation, values)])
    means = {column.label: evaluation.means(column) for column in columns}
    kinds = Counter(row.task_type for row in evaluation.rows)
    for kind in (kind for kind, rows in kinds.items() if rows > 1):
        values = {label: by_type[kind] for label, by_type in means.items()}
        lines.append([f"mean of {kind}", _NONE, *_cells(evaluation, values)])
    yield from _aligned(lines if with_published else [[line[0], *line[2:]] for line in lines])
    if with_published:
        yield f"published: {published.model}, mteb's results as of {published.read}"
    if starred:
        yield f"{_OTHER_DATA} measured on another revision of the data"


def as_json(
    evaluation: Evaluation, published: Published, settings: Mapping[str, object]
) -> dict[str, object]:
    """The same with every digit, and where mteb's result files are."""
    known = published.by_cell
    rows = []
    for row in evaluation.rows:
        score = known.get(row.cell)
        rows.append(
            {
                "task": row.cell.task,
                "split": row.cell.split,
                "subset": row.cell.subset,
                "type": row.task_type,
                "metric": row.metric,
                "dataset_revision": row.dataset_revision,
                "published": score and score.score,
                "published_dataset_revision": score and score.dataset_revision,
                "scores": {c.label: c.scores[row.cell] for c in _columns(evaluation)},
            }
        )
    return {
        "settings": dict(settings),
        "published": {"model": published.model, "revision": published.revision},
        "columns": {
            c.label: {"name": c.name, "revision": c.revision, "precision": c.precision}
            for c in _columns(evaluation)
        },
        "rows": rows,
        "means": {c.label: evaluation.means(c) for c in _columns(evaluation)},
    }


def _columns(evaluation: Evaluation) -> tuple[Column, ...]:
    reference = () if evaluation.reference is None else (evaluation.reference,)
    return (*reference, *evaluation.columns)


def _heading(evaluation: Evaluation) -> Iterator[str]:
    reference = evaluation.reference
    if reference is not None:
        yield reference.label
    for column in evaluation.columns:
        yield column.label
        if reference is not None:
            yield "difference"


def _cells(evaluation: Evaluation, values: Mapping[str, float]) -> Iterator[str]:
    reference = evaluation.reference
    if reference is not None:
        yield f"{values[reference.label]:.5f}"
    for column in evaluation.columns:
        yield f"{values[column.label]:.5f}"
        if reference is not None:
            yield f"{values[column.label] - values[reference.label]:+.5f}"


def _name(row: Row) -> str:
    """A task's name, with its split and subset where they are not the usual ones."""
    cell = row.cell
    usual = {cell.split: "test", cell.subset: "default"}
    return " ".join([cell.task, *(word for word, common in usual.items() if word != common)])


def _aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns under each other: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, *cells in lines:
        padded = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        yield "  ".join([name.ljust(widths[0]), *padded]).rstrip()
