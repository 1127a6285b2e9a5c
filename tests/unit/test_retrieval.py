"""nDCG@10 and top-10 overlap against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calibration.retrieval import TIE, compare_scores
from tests.support import Array

N = 20


def ranked(rank: int) -> Array:
    """Scores in which every query's own passage has the given rank (from 1), 0.01 apart."""
    scores = np.empty((N, N))
    for i in range(N):
        order = [(i + 1 + k) % N for k in range(N - 1)]
        order.insert(rank - 1, i)
        scores[i, order] = 0.9 - 0.01 * np.arange(N)
    return scores


def compare(exact: Array, found: Array) -> tuple[float, float, float, float]:
    kept = compare_scores(np.asarray(exact, np.float64), np.asarray(found, np.float64))
    return kept.ndcg, kept.exact_ndcg, kept.ndcg_ratio, kept.overlap


@pytest.mark.parametrize(
    ("rank", "ndcg"), [(1, 1.0), (2, 0.6309298), (3, 0.5), (10, 0.2890648), (11, 0.0), (20, 0.0)]
)
def test_ndcg_is_the_discount_of_the_rank(rank: int, ndcg: float) -> None:
    found, exact, _, overlap = compare(ranked(rank), ranked(rank))
    assert found == exact == pytest.approx(ndcg, abs=1e-6)
    assert overlap == 1.0


def test_ratio_is_to_fp32() -> None:
    ndcg, exact, ratio, _ = compare(ranked(1), ranked(3))
    assert (ndcg, exact, ratio) == pytest.approx((0.5, 1.0, 0.5))
    assert compare(ranked(3), ranked(1))[2] == pytest.approx(2.0)


def test_nothing_to_lose_is_no_loss() -> None:
    assert compare(ranked(15), ranked(16))[:3] == (0.0, 0.0, 1.0)


def test_overlap_counts_who_left_the_top_ten() -> None:
    exact = ranked(1)
    found = exact.copy()
    order = np.argsort(-exact[0])
    found[0, order[7:10]], found[0, order[17:20]] = exact[0, order[17:20]], exact[0, order[7:10]]
    assert compare(exact, found)[3] == pytest.approx((0.7 + N - 1) / N)


def test_order_inside_the_top_ten_does_not_matter_to_the_overlap() -> None:
    exact = ranked(1)
    found = exact.copy()
    top = np.argsort(-exact[0])[:10]
    found[0, top] = exact[0, top[::-1]]
    assert compare(exact, found)[3] == 1.0


def test_swap_of_tied_passages_is_no_loss() -> None:
    """FP32's tenth and eleventh differ by less than a tie: either is right."""
    exact = ranked(1)
    for row in exact:
        tenth, eleventh = np.argsort(-row)[9:11]
        row[eleventh] = row[tenth] - TIE / 2
    found = exact.copy()
    for row in found:
        tenth, eleventh = np.argsort(-row)[9:11]
        row[[tenth, eleventh]] = row[[eleventh, tenth]]
    assert compare(exact, found)[3] == 1.0


def test_swap_of_passages_further_apart_is_a_loss() -> None:
    exact = ranked(1)
    found = exact.copy()
    for row in found:
        tenth, eleventh = np.argsort(-row)[9:11]
        row[[tenth, eleventh]] = row[[eleventh, tenth]]
    assert compare(exact, found)[3] == pytest.approx(0.9)


def test_tie_takes_the_mean_of_its_places() -> None:
    """A passage tied with the one before it has rank 1 or 2: (1 + 1/log2(3)) / 2."""
    scores = ranked(2)
    for i, row in enumerate(scores):
        row[i] = row.max() - TIE / 2
    assert compare(scores, scores)[0] == pytest.approx((1 + 1 / math.log2(3)) / 2)


def test_vectors_that_are_all_equal_rank_nothing() -> None:
    """Collapsed vectors must not pass for good ones because everything is a tie."""
    ndcg, exact, ratio, overlap = compare(ranked(1), np.full((N, N), 0.9))
    assert exact == 1.0
    assert ndcg == ratio == pytest.approx(sum(1 / math.log2(1 + r) for r in range(1, 11)) / N)
    assert overlap < 0.7


def test_fewer_passages_than_ten() -> None:
    scores = np.eye(4) * 0.5 + 0.1
    assert compare(scores, scores) == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_give_figures_that_pass_no_gate(bad: float) -> None:
    found = ranked(1)
    found[3, 3] = bad
    with np.errstate(invalid="ignore"):
        kept = compare(ranked(1), found)
    assert all(math.isnan(value) for value in kept)
    assert not kept[2] >= 0.99
