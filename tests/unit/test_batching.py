"""Calls within a budget, padded only where that is cheap."""

from __future__ import annotations

import numpy as np
import pytest

from runtimes.text.batching import Budget, schedule

SKEWED = np.random.default_rng(0).lognormal(4, 1, 300).astype(int).clip(1, 4096).tolist()


def padding(batch: list[int], lengths: list[int]) -> int:
    longest = max(lengths[i] for i in batch)
    return sum(longest - lengths[i] for i in batch)


@pytest.mark.parametrize("rows", [1, 4, 32])
@pytest.mark.parametrize("lengths", [[], [3] * 10, [5, 1, 5, 2, 5], [8192, 4096, 1], SKEWED])
def test_every_text_once_and_every_limit_kept(lengths: list[int], rows: int) -> None:
    batches = list(schedule(lengths, rows, Budget(tokens=1000, call_tokens=64)))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) <= rows
        assert len(batch) == 1 or len(batch) * longest <= 1000
        assert padding(batch, lengths) <= 64


def test_longest_first() -> None:
    assert next(schedule([4, 900, 70, 900], 8, Budget(tokens=4096))) == [1, 3]


def test_neighbours_are_padded_together_up_to_the_cost_of_a_call() -> None:
    lengths = [20, 19, 18, 17]  # padding 1, 3, 6
    assert list(schedule(lengths, 8, Budget(call_tokens=6))) == [[0, 1, 2, 3]]
    assert list(schedule(lengths, 8, Budget(call_tokens=5))) == [[0, 1, 2], [3]]
    assert list(schedule(lengths, 8, Budget(call_tokens=0))) == [[0], [1], [2], [3]]


def test_equal_lengths_need_no_more_calls_than_rows_allow() -> None:
    assert len(list(schedule([3] * 10 + [40] * 4, 4, Budget(call_tokens=0)))) == 4


def test_a_text_over_the_budget_goes_alone() -> None:
    assert list(schedule([9000, 9000], 8, Budget(tokens=4096))) == [[0], [1]]
