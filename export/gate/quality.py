"""What a quantised bundle keeps of FP32's quality, by task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from calibration import looks
from calibration.corpus import graded_pairs, questions
from calibration.evidence import Loss
from calibration.quality import SetVectors, losses
from export.gate.quality_texts import OWNERS, PASSAGES, apart, number_of, side_of
from export.gate.texts import ParityText
from runtimes.arrays import Vectors

Rows = dict[str, list[int]]  # of the gate's texts, by side


def quality_losses(exact: Vectors, ours: Vectors, texts: Sequence[ParityText]) -> tuple[Loss, ...]:
    """Every figure's loss from the reference's vectors to ours; rows are those of ``texts``.

    Of each task, or of all together where each side has one of its own. None where no question or
    no pair is among the texts, as of a bundle that holds few tokens.
    """
    found: list[Loss] = []
    all_questions, all_pairs = questions(), graded_pairs()
    for task, rows in _rows_by_task(texts).items():
        asked, graded = ([number_of(texts[i].name) for i in rows[s]] for s in ("queries", "first"))
        if not asked or not graded:
            continue
        sides = (
            SetVectors(**{side: vectors[rows[side]] for side in OWNERS})
            for vectors in (exact, ours)
        )
        judged = losses(
            next(sides),
            next(sides),
            [all_questions[number] for number in asked],
            [all_pairs[number] for number in graded],
            looks.confidence(),
        )
        found += [replace(loss, task=task) for loss in judged]
    return tuple(found)


def _rows_by_task(texts: Sequence[ParityText]) -> dict[str, Rows]:
    by_task: dict[str, Rows] = {}
    for row, text in enumerate(texts):
        if (side := side_of(text.name)) is not None:
            by_task.setdefault(text.task, {}).setdefault(side, []).append(row)
    if apart(by_task):
        return {"": {side: by_task[task].get(side, []) for side, task in OWNERS.items()}}
    return {
        task: {side: rows.get("passages" if side in PASSAGES else side, []) for side in OWNERS}
        for task, rows in by_task.items()
    }
