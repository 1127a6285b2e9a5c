"""A stage that runs ahead: order, limits, errors, and its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from runtimes.corpus.ahead import ahead


def test_items_come_in_order_and_are_made_before_they_are_asked_for() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            yield number

    with ahead(items(), 2) as taken:
        assert next(taken) == 0
        deadline = time.monotonic() + 5
        while len(made) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        # Two wait, one more is in the maker's hands.
        assert made == [0, 1, 2, 3]
        assert list(taken) == list(range(1, 10))


def test_an_error_comes_after_what_was_made_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError(28, "no space")

    with ahead(items(), 2) as taken:
        assert next(taken) == 1
        with pytest.raises(OSError, match="no space"):
            next(taken)


def test_the_maker_ends_when_nobody_wants_more() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    before = threading.active_count()
    with ahead(items(), 1) as taken:
        assert next(taken) == 0
    assert closed.wait(5)
    assert threading.active_count() == before
