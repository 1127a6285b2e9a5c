"""How much of FP32's retrieval is kept: nDCG@10 and the overlap of the ten best passages.

Two scores that differ by less than ``TIE`` are a tie, and a tie is no loss: which of two equally
good passages comes first says nothing about the vectors. Inside a tie, nDCG takes the mean over
all orders (McSherry and Najork, "Computing information retrieval performance measures efficiently
in the presence of tied scores", 2008); the overlap accepts every passage whose FP32 score is as
good as FP32's tenth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOP = 10
# Of a cosine. Vectors at 1 - cosine 5e-5, INT8's, move scores in 32 dimensions by about this much.
TIE = 2e-3

Doubles = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Retrieval:
    """Means over the queries; ``exact_ndcg`` is FP32's, ``overlap`` that of both top tens."""

    ndcg: float
    exact_ndcg: float
    ndcg_ratio: float
    overlap: float


def compare_scores(exact: Doubles, ours: Doubles) -> Retrieval:
    """Compare scores ``[queries, passages]`` with FP32's; query i is answered by passage i alone.

    They are in a cosine's units, which :data:`TIE` is in. A score that is not finite makes every
    figure NaN, which passes no gate. Where FP32 finds no passage among its ten best, there is
    nothing to lose and ``ndcg_ratio`` is 1.
    """
    if not (np.isfinite(exact).all() and np.isfinite(ours).all()):
        return Retrieval(np.nan, np.nan, np.nan, np.nan)
    answers = np.arange(len(exact))
    before, after = (float(gains(scores, answers).mean()) for scores in (exact, ours))
    ratio = after / before if before else 1.0
    return Retrieval(after, before, ratio, float(overlaps(exact, ours).mean()))


def gains(scores: Doubles, answers: Indices) -> Doubles:
    """nDCG@10 of each query, where passage ``answers[i]`` is the one relevant for query i."""
    own = np.take_along_axis(scores, answers[:, None], axis=1)
    better = (scores > own + TIE).sum(axis=1)
    tied = (np.abs(scores - own) <= TIE).sum(axis=1)  # itself too
    discounts = np.zeros(scores.shape[1] + 1)
    ranks = np.arange(1, min(TOP, scores.shape[1]) + 1)
    discounts[ranks] = 1 / np.log2(1 + ranks)
    until = np.cumsum(discounts)
    gained: Doubles = (until[better + tied] - until[better]) / tied
    return gained


def overlaps(exact: Doubles, ours: Doubles) -> Doubles:
    """Of each query, the share of its ten best that FP32 scores as well as its own ten best."""
    top = min(TOP, exact.shape[1])
    least = np.sort(exact, axis=1)[:, -top][:, None] - TIE
    best = np.argsort(-ours, axis=1, kind="stable")[:, :top]
    kept: Doubles = (np.take_along_axis(exact, best, axis=1) >= least).mean(axis=1)
    return kept
