"""What a scheme keeps of FP32's quality on the project's own sets, each loss with its bounds.

Ranking (each query's passage among all passages, hard negatives too), graded similarity, and topics
as classes and as clusters. Judged twice: by what whoever wrote the texts says, and by what FP32
finds, since a small model's ranking can be poor and still has to be kept: there the labels say
nothing, and a loss against them is not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from calibration.corpus import GradedPair, Question
from calibration.evidence import (
    Loss,
    Statistic,
    correlation_of,
    lost_to_nan,
    mean_of,
    paired_loss,
    v_measure_of,
)
from calibration.retrieval import Doubles, Indices, gains, overlaps
from runtimes.arrays import Vectors

# By figure, the most that may be lost. Those of the first kind are by the labels, those of the
# second by what FP32 itself finds, which tells just as much where a model knows little.
LIMITS: Mapping[str, float] = {
    "nDCG@10": 0.02,
    "Spearman": 0.02,
    "topic accuracy": 0.03,
    "topic V-measure": 0.06,
    "FP32's first passage, nDCG@10": 0.03,
    "FP32's ten passages": 0.05,
    "FP32's similarities, Spearman": 0.002,
    "FP32's topics": 0.1,
}
# The least that FP32 must reach of a figure by labels for its loss to be judged: below, its texts
# are right or wrong by chance. Chance is 0.01, 0, 0.1 and up to 0.2.
LEAST: Mapping[str, float] = {
    "nDCG@10": 0.2,
    "Spearman": 0.3,
    "topic accuracy": 0.3,
    "topic V-measure": 0.3,
}
_ITERATIONS, _STARTS = 25, 8  # of k-means; it has settled by then


@dataclass(frozen=True, kw_only=True)
class SetVectors:
    """Unit rows of a set's texts, in the order of the questions and of the pairs.

    ``negatives`` are three rows for each question; ``classed`` and ``clustered`` are the passages
    again, by the tasks for that where a bundle has them.
    """

    queries: Vectors
    passages: Vectors
    negatives: Vectors
    first: Vectors
    second: Vectors
    classed: Vectors
    clustered: Vectors

    @cached_property
    def scores(self) -> Doubles:
        """Cosines of queries and passages; passage i answers query i, the rest are behind."""
        return _double(self.queries) @ _double(np.concatenate([self.passages, self.negatives])).T

    @cached_property
    def similarities(self) -> Doubles:
        """Cosines of the pairs' sides."""
        found: Doubles = (_double(self.first) * _double(self.second)).sum(axis=1)
        return found


def losses(
    exact: SetVectors,
    ours: SetVectors,
    questions: Sequence[Question],
    pairs: Sequence[GradedPair],
    confidence: float,
) -> tuple[Loss, ...]:
    """Every figure's loss from FP32's vectors to ours, the bounds at ``confidence`` each.

    Numbers that are not finite make every figure NaN, which nothing accepts.
    """
    asked, graded = len(questions), len(pairs)
    if not all(np.isfinite(getattr(v, f.name)).all() for v in (exact, ours) for f in fields(v)):
        return tuple(
            lost_to_nan(figure, asked, limit, confidence) for figure, limit in LIMITS.items()
        )
    _, topics = np.unique([question.topic for question in questions], return_inverse=True)
    grades = np.array([pair.score for pair in pairs], np.float64)
    answers, first = np.arange(len(questions)), exact.scores.argmax(axis=1)
    told = [_nearest(vectors.classed, topics) for vectors in (exact, ours)]
    statistics: Mapping[str, Callable[[SetVectors], Statistic]] = {
        "nDCG@10": lambda v: mean_of(gains(v.scores, answers)),
        "Spearman": lambda v: correlation_of(grades, v.similarities),
        "topic accuracy": lambda v: mean_of(_equal(told[v is ours], topics)),
        "topic V-measure": lambda v: _v_measure(v.clustered, topics),
        "FP32's first passage, nDCG@10": lambda v: mean_of(gains(v.scores, first)),
        "FP32's ten passages": lambda v: mean_of(overlaps(exact.scores, v.scores)),
        "FP32's similarities, Spearman": lambda v: correlation_of(
            exact.similarities, v.similarities
        ),
        "FP32's topics": lambda v: mean_of(_equal(told[v is ours], told[0])),
    }
    return tuple(
        paired_loss(
            figure,
            graded if "Spearman" in figure else asked,
            (statistic(exact), statistic(ours)),
            LIMITS[figure],
            confidence,
            LEAST.get(figure, 0.0),
        )
        for figure, statistic in statistics.items()
    )


def _equal(found: Indices, wanted: Indices) -> Doubles:
    same: Doubles = (found == wanted).astype(np.float64)
    return same


def _nearest(vectors: Vectors, topics: Indices) -> Indices:
    """The topic whose mean, without the text itself, is nearest."""
    rows, members = _double(vectors), np.eye(topics.max() + 1)[topics]
    sums = members.T @ rows
    scores = rows @ _unit(sums).T
    alone = _unit(sums[topics] - rows)
    scores[np.arange(len(rows)), topics] = (rows * alone).sum(axis=1)
    found: Indices = scores.argmax(axis=1)
    return found


def _v_measure(vectors: Vectors, topics: Indices) -> Statistic:
    """The mean over several starts of k-means, which a small change can send another way."""
    rng = np.random.default_rng(0)
    starts = [rng.choice(len(topics), topics.max() + 1, replace=False) for _ in range(_STARTS)]
    measures = [v_measure_of(topics, _clusters(vectors, start)) for start in starts]
    return lambda drawn: np.mean([measure(drawn) for measure in measures], axis=0)


def _clusters(vectors: Vectors, start: Indices) -> Indices:
    """Spherical k-means from these texts."""
    rows, centres = _double(vectors), _double(vectors)[start]
    for _ in range(_ITERATIONS):
        found: Indices = (rows @ centres.T).argmax(axis=1)
        centres = _unit(np.eye(len(start))[found].T @ rows)
    return found


def _unit(rows: Doubles) -> Doubles:
    """Rows of length 1; zero stays zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Doubles = rows / np.where(lengths > 0, lengths, 1)
    return unit


def _double(vectors: Vectors) -> Doubles:
    return vectors.astype(np.float64)
