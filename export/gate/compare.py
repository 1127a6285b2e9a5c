"""Vectors of the gate's texts: computed in padded batches, and held against the reference's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from export.console.progress import log, progress_bar
from export.gate.texts import DOCUMENT_TOKENS, ParityText
from runtimes.arrays import Ids, Vectors
from runtimes.executors.base import Runtime
from runtimes.tensors import SENTENCE_EMBEDDING, TASK_ID
from runtimes.text.tokens import TextTokenizer

_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class TextResult:
    """How one text compares."""

    name: str
    task: str
    tokens: int
    cosine: float
    max_abs: float


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """How one executed graph compares with the reference over all texts."""

    reference: str
    executed: str
    rows: int
    min_cosine: float
    mean_cosine: float
    max_abs: float
    threshold: float
    mean_threshold: float
    passed: bool
    texts: tuple[TextResult, ...]

    def summary(self) -> dict[str, Any]:
        """The report without its texts, as the manifest holds it."""
        return {k: v for k, v in asdict(self).items() if k != "texts"}


def batches(texts: Sequence[ParityText]) -> Iterator[list[int]]:
    """Indices of padded batches: neighbours in length, and one of the shortest beside a longest.

    Memory of a masked attention grows with batch × longest²; the budget is that of one document
    of 2000 tokens, so longer ones run alone.
    """
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i].ids), i))
    long = [i for i in order if len(texts[i].ids) >= DOCUMENT_TOKENS[0]]
    order = [i for i in order if i not in long]
    if len(order) > _BATCH:
        yield [order.pop(0), order.pop()]
    for start in range(0, len(order), _BATCH):
        yield order[start : start + _BATCH]
    for index in long:
        yield [index]


def embed(runtime: Runtime, texts: Sequence[ParityText], tokenizer: TextTokenizer) -> Vectors:
    """Vectors of all texts, in their order, computed in padded batches."""
    vectors: Vectors | None = None
    plan = list(batches(texts))
    log.debug("  %s: %d texts in %d batches", runtime.name, len(texts), len(plan))
    for batch in progress_bar(plan, f"parity {runtime.name}", "batch"):
        rows = runtime.run(batch_inputs(texts, batch, tokenizer))[SENTENCE_EMBEDDING.name]
        if vectors is None:
            vectors = np.empty((len(texts), rows.shape[1]), np.float32)
        vectors[batch] = rows
    return np.empty((0, 0), np.float32) if vectors is None else vectors


def batch_inputs(
    texts: Sequence[ParityText], batch: Sequence[int], tokenizer: TextTokenizer
) -> dict[str, Ids]:
    """Ids and mask of the texts at these indices, and their tasks where the graph takes any."""
    inputs = dict(tokenizer.pad([texts[i].ids for i in batch]).inputs())
    if texts[batch[0]].task_id is not None:
        inputs[TASK_ID.name] = np.array([texts[i].task_id for i in batch], np.int64)
    return inputs


def compare(
    reference: Vectors,
    vectors: Vectors,
    texts: Sequence[ParityText],
    *,
    names: tuple[str, str],
    threshold: float,
    mean_threshold: float | None = None,
) -> ParityReport:
    """Cosine (in FP64) and greatest difference per text; NaN anywhere fails.

    ``names`` are the reference's and that of what was executed. Every text must reach
    ``threshold`` and their mean ``mean_threshold`` (by default the same).
    """
    mean_threshold = threshold if mean_threshold is None else mean_threshold
    cosines = row_cosines(reference, vectors)
    gaps = np.abs(reference.astype(np.float64) - vectors).max(axis=1)
    results = tuple(
        TextResult(name=t.name, task=t.task, tokens=len(t.ids), cosine=float(c), max_abs=float(g))
        for t, c, g in zip(texts, cosines, gaps, strict=True)
    )
    least, mean = float(cosines.min()), float(cosines.mean())
    return ParityReport(
        reference=names[0],
        executed=names[1],
        rows=len(texts),
        min_cosine=least,
        mean_cosine=mean,
        max_abs=float(gaps.max()),
        threshold=threshold,
        mean_threshold=mean_threshold,
        passed=least >= threshold and mean >= mean_threshold,
        texts=results,
    )


def row_cosines(a: Vectors, b: Vectors) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Cosine of each pair of rows, in FP64; capped at 1, which rounding can pass by 1e-16."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    cosines: np.ndarray[Any, np.dtype[np.float64]] = np.minimum((x * y).sum(axis=1) / norms, 1.0)
    return cosines


def parity_failure(report: ParityReport, label: str) -> str | None:
    """Why a report did not pass, with the worst texts; None where it did."""
    if report.passed:
        return None
    worst = sorted(report.texts, key=lambda t: -np.inf if np.isnan(t.cosine) else t.cosine)[:3]
    listed = ", ".join(
        f"{t.task} {t.name} ({t.tokens} tokens): {t.cosine:.7f}".strip() for t in worst
    )
    mean = ""
    if report.mean_threshold != report.threshold:
        mean = f", mean {report.mean_cosine:.7f}, expected at least {report.mean_threshold}"
    return (
        f"parity failed for {label}: minimum cosine {report.min_cosine:.7f}, expected at least "
        f"{report.threshold}{mean}; worst texts: {listed}"
    )
