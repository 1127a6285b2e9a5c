"""Texts of all requests that wait for the encoder, and which of them share its next call.

Requests take turns: the one whose turn it is gives the next call a text, and texts of about that
length, of whichever request, fill the call as :mod:`runtimes.text.batching` allows. A text thus
waits for no more calls than there are requests before it, however many texts those have.

Texts that fill a call alone have turns of their own. After such a call the others have as many
tokens before the next one, so that they do not wait for two long calls in a row, and long texts get
half of the encoder's time where there is no end of short ones.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from runtimes.arrays import Ids
from runtimes.text.batching import Budget
from runtimes.text.chunks import WindowCall


@dataclass(frozen=True, kw_only=True)
class Order:
    """One call of the encoder: rows of token ids with their tasks, or one window of a document."""

    bundle: int
    rows: tuple[Ids, ...]
    tasks: tuple[str, ...]
    window: WindowCall | None = None

    @property
    def tokens(self) -> int:
        """Computed, padding included."""
        return len(self.rows) * max(map(len, self.rows))


@dataclass(frozen=True, kw_only=True)
class CallLimit:
    """What one call of a bundle takes."""

    rows: int
    budget: Budget


class Ticket:
    """A request in the queue: ``rows`` of token ids, or ``windows``, of one bundle and task."""

    def __init__(
        self, bundle: int, task: str, rows: Sequence[Ids], windows: Sequence[WindowCall] = ()
    ) -> None:
        self.bundle, self.task, self.windows = bundle, task, windows
        self.rows = [window.ids for window in windows] if windows else list(rows)
        # Longest last, where the next one is taken from: what will not fit fails at once.
        self.waiting = sorted(range(len(self.rows)), key=lambda i: (len(self.rows[i]), -i))
        self.number = 0  # that of its arrival

    @property
    def longest(self) -> int:
        """Tokens of the text that is its next."""
        return len(self.rows[self.waiting[-1]])


@dataclass(frozen=True, kw_only=True)
class Call:
    """An order, and whose texts it has: each row's ticket and its index there."""

    order: Order
    places: tuple[tuple[Ticket, int], ...]


# A text that waits, in the order of length and then of arrival.
_Key = tuple[int, int, int]


class Queue:
    """Filled by the server's loop, emptied by the encoders' threads."""

    def __init__(self, limits: Sequence[CallLimit], most: int) -> None:
        """``limits`` are the bundles'; ``most`` texts wait."""
        self._limits, self._most = limits, most
        self._short: deque[Ticket] = deque()
        self._long: deque[Ticket] = deque()
        self._credit = 0  # tokens of short texts before the next long one
        self._sorted: list[list[_Key]] = [[] for _ in limits]
        self._tickets: dict[int, Ticket] = {}
        self._changed = threading.Condition()  # its lock may be taken again: close drops
        self._closed = False
        self._arrivals = 0
        self.texts = self.tokens = 0  # that wait

    def put(self, ticket: Ticket) -> bool:
        """Whether there was room for all of its texts; if not, none of them waits."""
        with self._changed:
            if self._closed or self.texts + len(ticket.rows) > self._most:
                return False
            self._arrivals += 1
            ticket.number = self._arrivals
            self._tickets[ticket.number] = ticket
            if not ticket.windows:
                keys = self._sorted[ticket.bundle]
                for index, row in enumerate(ticket.rows):
                    insort(keys, (len(row), ticket.number, index))
            self.texts += len(ticket.rows)
            self.tokens += sum(map(len, ticket.rows))
            self._queue_up(ticket)
            return True

    def take(self, timeout: float) -> Call | None:
        """The next call; None where nothing came within ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._tickets or self._closed, timeout)
            if not self._tickets:
                return None
            long = bool(self._long) and not (self._short and self._credit > 0)
            ticket = (self._long if long else self._short).popleft()
            index = ticket.waiting[-1]
            call = self._window(ticket, index) if ticket.windows else self._rows(ticket, index)
            for owner, place in call.places:
                self._remove(owner, place)
            if ticket.waiting:
                self._queue_up(ticket)
            tokens = call.order.tokens
            self._credit = tokens if long else max(0, self._credit - tokens)
            return call

    def drop(self, ticket: Ticket) -> None:
        """Take what still waits of a request out; nobody wants it any more."""
        with self._changed:
            if ticket.number not in self._tickets:  # there was no room for it, or it is done
                return
            for index in list(ticket.waiting):
                self._remove(ticket, index)

    def close(self) -> list[Ticket]:
        """Nothing goes in any more; the requests that still waited."""
        with self._changed:
            self._closed = True
            left = list(self._tickets.values())
            for ticket in left:
                self.drop(ticket)
            self._changed.notify_all()
        return left

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def _queue_up(self, ticket: Ticket) -> None:
        """To the end of the queue that its next text belongs into."""
        long = ticket.longest > self._limits[ticket.bundle].budget.tokens
        (self._long if long else self._short).append(ticket)
        self._changed.notify()

    def _remove(self, ticket: Ticket, index: int) -> None:
        """One text no longer waits; a request without any has no turn."""
        length = len(ticket.rows[index])
        ticket.waiting.remove(index)
        self.texts -= 1
        self.tokens -= length
        if not ticket.windows:
            keys = self._sorted[ticket.bundle]
            del keys[bisect_left(keys, (length, ticket.number, index))]
        if not ticket.waiting:
            del self._tickets[ticket.number]
            for turns in (self._short, self._long):
                if ticket in turns:
                    turns.remove(ticket)

    def _window(self, ticket: Ticket, index: int) -> Call:
        order = Order(
            bundle=ticket.bundle,
            rows=(ticket.rows[index],),
            tasks=(ticket.task,),
            window=ticket.windows[index],
        )
        return Call(order=order, places=((ticket, index),))

    def _rows(self, ticket: Ticket, index: int) -> Call:
        keys = self._sorted[ticket.bundle]
        own = bisect_left(keys, (len(ticket.rows[index]), ticket.number, index))
        first, last = neighbours([key[0] for key in keys], own, self._limits[ticket.bundle])
        chosen = [(self._tickets[number], i) for _, number, i in reversed(keys[first:last])]
        order = Order(
            bundle=ticket.bundle,
            rows=tuple(owner.rows[i] for owner, i in chosen),
            tasks=tuple(owner.task for owner, _ in chosen),
        )
        return Call(order=order, places=tuple(chosen))


def neighbours(lengths: Sequence[int], own: int, limit: CallLimit) -> tuple[int, int]:
    """Which of ascending ``lengths`` share a call with ``lengths[own]``: first, and end.

    The call grows towards the side that costs less padding, as long as the budget holds it and
    its padding costs less than a call would.
    """
    first, last, padding = own, own + 1, 0
    budget = limit.budget
    while last - first < limit.rows:
        rows, longest = last - first, lengths[last - 1]
        options = []
        if first > 0:
            options.append((longest - lengths[first - 1], 0, longest))
        if last < len(lengths):
            options.append((rows * (lengths[last] - longest), 1, lengths[last]))
        options = [
            o
            for o in options
            if padding + o[0] <= budget.call_tokens and budget.holds(rows + 1, o[2])
        ]
        if not options:
            break
        more, above, _ = min(options)
        padding += more
        first, last = (first, last + 1) if above else (first - 1, last)
    return first, last
