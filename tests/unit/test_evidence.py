"""Bounds of losses, and what is made of them."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.evidence import (
    Loss,
    Outcome,
    correlation_of,
    lost_to_nan,
    mean_of,
    paired_loss,
    ranks,
    v_measure_of,
    worst,
)

RNG = np.random.default_rng(7)
ONCE = np.ones((1, 200))


def made(low: float, high: float) -> Loss:
    return Loss(
        figure="f",
        units=1,
        confidence=0.95,
        exact=1,
        ours=1,
        loss=0,
        low=low,
        high=high,
        limit=0.01,
    )


def test_mean_and_its_bounds_are_those_of_the_normal_law() -> None:
    exact = RNG.normal(0.5, 0.1, 400)
    ours = exact - RNG.normal(0.02, 0.05, 400)
    loss = paired_loss("mean", 400, (mean_of(exact), mean_of(ours)), limit=0.03)
    error = np.std(exact - ours) / np.sqrt(400)
    middle = float(np.mean(exact - ours))
    assert loss.loss == pytest.approx(middle)
    assert loss.low == pytest.approx(middle - 1.645 * error, abs=0.2 * error)
    assert loss.high == pytest.approx(middle + 1.645 * error, abs=0.2 * error)


def test_spearman_is_that_of_known_values() -> None:
    grades = np.array([0, 0, 1, 1, 2, 2, 3, 3], float)
    values = np.array([0.1, 0.2, 0.15, 0.3, 0.5, 0.4, 0.9, 0.8])
    by_hand = [1.5, 1.5, 3.5, 3.5, 5.5, 5.5, 7.5, 7.5], [1, 3, 2, 4, 6, 5, 8, 7]
    expected = np.corrcoef(*by_hand)[0, 1]
    assert correlation_of(grades, values)(np.ones((1, 8)))[0] == pytest.approx(expected)
    assert ranks(np.array([3.0, 1.0, 3.0])).tolist() == [2.5, 1.0, 2.5]


def test_drawing_a_unit_twice_counts_it_twice() -> None:
    values = np.array([1.0, 2.0, 4.0])
    assert mean_of(values)(np.array([[2.0, 0.0, 1.0]]))[0] == pytest.approx(2.0)


def test_v_measure_is_one_for_renamed_clusters_and_zero_for_one_cluster() -> None:
    labels = RNG.integers(0, 4, 200)
    assert v_measure_of(labels, (labels + 1) % 4)(ONCE)[0] == pytest.approx(1)
    assert v_measure_of(labels, np.zeros(200, int))(ONCE)[0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.001, 0.009, Outcome.ACCEPTED),
        (0.005, 0.02, Outcome.UNDECIDED),
        (0.02, 0.03, Outcome.REFUSED),
        (float("nan"), float("nan"), Outcome.REFUSED),
    ],
)
def test_outcome_is_what_the_bounds_say(low: float, high: float, outcome: Outcome) -> None:
    assert made(low, high).outcome is outcome


def test_bounds_hold_as_often_as_they_say() -> None:
    """A true loss of the limit's size is accepted in at most 5 % of all draws, but for chance."""
    accepted = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        losses = rng.normal(0.01, 0.05, 300)
        loss = paired_loss("f", 300, (mean_of(losses), mean_of(np.zeros(300))), limit=0.01)
        accepted += loss.outcome is Outcome.ACCEPTED
    assert 2 <= accepted <= 20


def test_the_worst_is_the_one_furthest_above_its_limit() -> None:
    good, doubt, bad, worse = (made(0, 0.001), made(0, 0.02), made(0.02, 0.03), made(0.02, 0.04))
    assert worst([good, doubt, bad, worse], Outcome.REFUSED) is worse
    assert worst([good, doubt, bad], Outcome.UNDECIDED) is doubt
    assert worst([good], Outcome.REFUSED) is None
    lost = lost_to_nan("f", 1, 0.01, 0.95)
    assert worst([worse, lost], Outcome.REFUSED) is lost
