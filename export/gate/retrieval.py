"""Whether rankings are kept: retrieval over pairs of query and passage, against FP32's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from calibration.retrieval import Retrieval, compare_retrieval
from export.gate.texts import PASSAGE, QUERY, ParityText
from runtimes.arrays import Vectors

MIN_NDCG, MIN_OVERLAP = 0.99, 0.95  # at 10, against FP32's own ranking


def retrieval_by_task(
    exact: Vectors, ours: Vectors, texts: Sequence[ParityText]
) -> dict[str, Retrieval]:
    """nDCG@10 and top-10 overlap by the queries' task; rows are those of ``texts``."""
    by_task: dict[str, Retrieval] = {}
    passage_tasks = dict.fromkeys(t.task for t in texts if t.name.startswith(PASSAGE))
    for task in dict.fromkeys(t.task for t in texts if t.name.startswith(QUERY)):
        other = task if task in passage_tasks else next(iter(passage_tasks))
        queries, passages = _rows(texts, QUERY, task), _rows(texts, PASSAGE, other)
        by_task[task] = compare_retrieval(
            exact[queries], exact[passages], ours[queries], ours[passages]
        )
    return by_task


def retrieval_failure(retrieval: Mapping[str, Retrieval], label: str) -> str | None:
    """Why rankings were not kept; None where they were."""
    for task, figures in retrieval.items():
        if not (figures.ndcg_ratio >= MIN_NDCG and figures.overlap >= MIN_OVERLAP):
            return (
                f"retrieval was not kept by {label}, task {task}: nDCG@10 "
                f"{figures.ndcg_ratio:.4f} of FP32's, expected at least {MIN_NDCG}; top-10 overlap "
                f"{figures.overlap:.4f}, expected at least {MIN_OVERLAP}"
            )
    return None


def _rows(texts: Sequence[ParityText], side: str, task: str) -> list[int]:
    return [i for i, t in enumerate(texts) if t.task == task and t.name.startswith(side)]
