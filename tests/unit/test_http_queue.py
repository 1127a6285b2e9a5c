"""The server's queue: every text in one call, calls within the budget, turns for everybody."""

from __future__ import annotations

import threading

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from runtimes.api.queue import Call, CallLimit, Queue, Ticket, neighbours
from runtimes.text.batching import Budget
from runtimes.text.chunks import WindowCall
from tests.runtime_support import Array

LIMIT = CallLimit(rows=8, budget=Budget(tokens=512, call_tokens=32))
NOW = 0.0


def ids(length: int) -> Array:
    return np.zeros(length, np.int64)


def ticket(*lengths: int, bundle: int = 0) -> Ticket:
    return Ticket(bundle, f"task {bundle}", [ids(n) for n in lengths])


def queue(most: int = 10_000, bundles: int = 1) -> Queue:
    return Queue([LIMIT] * bundles, most)


def drain(subject: Queue) -> list[Call]:
    calls = []
    while (call := subject.take(NOW)) is not None:
        calls.append(call)
    return calls


def lengths_of(call: Call) -> list[int]:
    return [len(row) for row in call.order.rows]


requests = st.lists(
    st.tuples(
        st.lists(st.integers(1, 700), min_size=1, max_size=12), st.integers(0, 1), st.booleans()
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=150)
@given(requests)
def test_every_text_is_in_one_call_and_calls_keep_the_budget(
    given_requests: list[tuple[list[int], int, bool]],
) -> None:
    subject = queue(bundles=2)
    tickets = []
    for lengths, bundle, windows in given_requests:
        calls = [
            WindowCall(ids=ids(n), weights=np.ones((1, 1, n), np.float32), chunks=(0,))
            for n in lengths
        ]
        rows = [] if windows else [ids(n) for n in lengths]
        tickets.append(Ticket(bundle, "t", rows, calls if windows else ()))
        assert subject.put(tickets[-1])
    calls_made = drain(subject)
    places = [(owner.number, i) for call in calls_made for owner, i in call.places]
    assert sorted(places) == [(t.number, i) for t in tickets for i in range(len(t.rows))]
    assert (subject.texts, subject.tokens) == (0, 0)
    for call in calls_made:
        count, longest = len(call.order.rows), max(lengths_of(call))
        assert count == 1 or LIMIT.budget.holds(count, longest)
        assert count <= LIMIT.rows
        assert call.order.tokens - sum(lengths_of(call)) <= LIMIT.budget.call_tokens
        assert {owner.bundle for owner, _ in call.places} == {call.order.bundle}
        assert len(call.places) == count
        for row, (owner, i) in zip(call.order.rows, call.places, strict=True):
            assert row is owner.rows[i]


def test_texts_of_several_requests_share_a_call() -> None:
    subject = queue()
    for length in (20, 21, 22, 300):
        subject.put(ticket(length))
    assert [lengths_of(call) for call in drain(subject)] == [[22, 21, 20], [300]]


def test_requests_take_turns_however_many_texts_they_have() -> None:
    """A list of 50 long-ish texts kept everybody behind it waiting until its end."""
    subject = queue()
    many, one = ticket(*[400] * 50), ticket(100)
    subject.put(many)
    subject.put(one)
    owners = [call.places[0][0] for call in drain(subject)]
    assert owners.index(one) == 1


def test_a_long_text_delays_short_ones_by_one_call() -> None:
    """Several of 8192 tokens ran one after the other, and a short one that came then waited."""
    subject = queue()
    for _ in range(4):
        subject.put(ticket(8192))
    first = subject.take(NOW)
    assert first is not None
    assert lengths_of(first) == [8192]
    shorts = [ticket(100), ticket(300)]
    for short in shorts:
        subject.put(short)
    order = [max(lengths_of(call)) for call in drain(subject)]
    assert order == [100, 300, 8192, 8192, 8192]


def test_long_texts_get_half_where_short_ones_never_end() -> None:
    subject = queue()
    for _ in range(3):
        subject.put(ticket(4096))
    spent = {True: 0, False: 0}
    for _ in range(40):
        subject.put(ticket(500))
        call = subject.take(NOW)
        assert call is not None
        spent[max(lengths_of(call)) == 4096] += call.order.tokens
    assert spent[True] == 3 * 4096
    assert spent[False] >= 2 * 4096


def test_a_full_queue_takes_nothing_of_a_request() -> None:
    subject = queue(most=3)
    refused = ticket(3, 4)
    assert subject.put(ticket(1, 2))
    assert not subject.put(refused)
    subject.drop(refused)  # gave an IndexError, and the client a 500
    assert (subject.texts, subject.tokens) == (2, 3)
    assert subject.put(ticket(5))


def test_what_nobody_waits_for_is_taken_out() -> None:
    subject = queue()
    kept, left = ticket(30, 31), ticket(30, 600, 32)
    subject.put(left)
    subject.put(kept)
    first = subject.take(NOW)
    assert first is not None
    assert lengths_of(first) == [600]
    subject.drop(left)
    assert (subject.texts, subject.tokens) == (2, 61)
    owners = {owner for call in drain(subject) for owner, _ in call.places}
    assert owners == {kept}


def test_closing_gives_back_what_waited_and_wakes_who_waits() -> None:
    subject = queue()
    found: list[Call | None] = []
    waiting = threading.Thread(target=lambda: found.append(subject.take(30)))
    waiting.start()
    assert subject.close() == []
    waiting.join(5)
    assert found == [None]
    assert not subject.put(ticket(1))

    other = queue()
    held = ticket(5)
    other.put(held)
    assert other.close() == [held]
    assert other.take(NOW) is None
    assert other.texts == 0


def test_a_call_grows_to_the_side_of_less_padding() -> None:
    lengths = [5, 40, 41, 41, 60]
    assert neighbours(lengths, 1, LIMIT) == (1, 4)
    assert neighbours(lengths, 4, LIMIT) == (3, 5)
    assert neighbours([5] * 20, 10, LIMIT) == (3, 11)
    assert neighbours([600, 600], 0, LIMIT) == (0, 1)
