"""Who turns work into vectors: encoders of this machine behind one queue."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from runtimes.api import problems
from runtimes.api.encoders import Encoder, WorkerLostError, open_encoders
from runtimes.api.problems import ApiError, as_problem
from runtimes.api.queue import Call, Queue, Ticket
from runtimes.api.settings import Settings
from runtimes.api.work import Work
from runtimes.arrays import Vectors
from runtimes.errors import AdaptrtError, InputError

log = logging.getLogger("adaptrt")
_LOOK = 0.5  # seconds between looks at whether an idle worker is still there
_PAUSE = 1.0  # seconds before a worker that did not start is started again


@dataclass(frozen=True, kw_only=True)
class CallDone:
    """What the metrics are told of one call."""

    rows: int
    tokens: int
    padded: int
    seconds: float


class Backend(Protocol):
    """Embeds, for the server's loop."""

    def start(self) -> None:
        """Begin, in the running loop."""

    async def embed(self, work: Work) -> Vectors:
        """Full vectors ``[n, hidden]``; a cancelled one is not waited for by anybody.

        Raises :class:`ApiError` where there is no room or the encoder is lost.
        """

    def waiting(self) -> tuple[int, int]:
        """Texts and tokens that wait."""

    def ready(self) -> bool:
        """Whether a request would be answered."""

    def close(self) -> None:
        """End; what still waits is refused."""


class LocalBackend:
    """Encoders behind one queue, a thread for each."""

    def __init__(
        self,
        settings: Settings,
        on_call: Callable[[CallDone], None] = lambda _: None,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        """Loads; raises as :meth:`~runtimes.embedder.Embedder.load` does."""
        self.encoders = open_encoders(settings)
        self.queue = Queue(self.encoders[0].limits, settings.max_queue)
        self._on_call, self._on_restart = on_call, on_restart
        self._lost: set[int] = set()  # encoders that are being started again
        self._rate = 0.0  # tokens per second, of late
        self._waiters: dict[Ticket, _Waiter] = {}

    def start(self) -> None:
        """A thread for each encoder."""
        self._loop = asyncio.get_running_loop()
        self._threads = [
            threading.Thread(target=self._serve, args=(n,), name=f"encoder-{n}", daemon=True)
            for n in range(len(self.encoders))
        ]
        for thread in self._threads:
            thread.start()

    async def embed(self, work: Work) -> Vectors:
        """Wait in the queue, then for the last of the work's calls."""
        plan = work.plan
        ticket = Ticket(
            work.served.number, work.task, work.rows, () if plan is None else plan.calls
        )
        waiter = _Waiter(self._loop.create_future(), len(ticket.rows))
        self._waiters[ticket] = waiter
        try:
            if not self.queue.put(ticket):
                raise ApiError(
                    problems.BUSY,
                    f"{self.queue.texts} texts wait already; send the request again later",
                    retry_after=self._wait(),
                )
            await waiter.done
        finally:
            del self._waiters[ticket]
            if waiter.left:  # cancelled, or failed with some of it still in the queue
                self.queue.drop(ticket)
        if plan is not None:
            return np.asarray(plan.gather(waiter.parts).vectors)
        return np.stack(waiter.parts)

    def waiting(self) -> tuple[int, int]:
        """Texts and tokens in the queue."""
        return self.queue.texts, self.queue.tokens

    def ready(self) -> bool:
        """Whether an encoder lives."""
        return len(self._lost) < len(self.encoders)

    def close(self) -> None:
        """Refuse what waits, and wait for the calls under way."""
        for ticket in self.queue.close():
            if (waiter := self._waiters.get(ticket)) is not None:
                ending = ApiError(problems.DRAINING, "the server is ending", retry_after=1)
                self._loop.call_soon_threadsafe(waiter.fail, ending)
        for thread in self._threads:
            thread.join()
        for encoder in self.encoders:
            encoder.close()

    def _wait(self) -> float:
        """Seconds until what waits now will have been embedded, at the speed of late."""
        return min(60.0, self.queue.tokens / self._rate) if self._rate else 1.0

    def _serve(self, number: int) -> None:
        """An encoder's thread."""
        encoder = self.encoders[number]
        while not self.queue.closed:
            self._revive(number, encoder)
            if (call := self.queue.take(_LOOK)) is not None:
                self._run(encoder, call)

    def _run(self, encoder: Encoder, call: Call) -> None:
        start = time.perf_counter()
        result: Vectors | ApiError
        try:
            result = encoder.run(call.order)
        except WorkerLostError as error:
            log.warning("%s; a new one is started", error)
            message = "the process that embedded this request was lost; send it again"
            result = ApiError(problems.WORKER_LOST, message, retry_after=1)
        except AdaptrtError as error:
            log.error("%s", error)
            result = as_problem(error) if not isinstance(error, InputError) else _failed()
        except Exception:  # noqa: BLE001 - the thread's boundary: the others' requests go on
            log.error("%s", traceback.format_exc())
            result = _failed()
        else:
            self._count(call, time.perf_counter() - start)
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._deliver, call, result)

    def _count(self, call: Call, seconds: float) -> None:
        tokens = sum(map(len, call.order.rows))
        rate = tokens / max(seconds, 1e-6)
        self._rate = rate if not self._rate else 0.9 * self._rate + 0.1 * rate
        done = CallDone(
            rows=len(call.order.rows), tokens=tokens, padded=call.order.tokens, seconds=seconds
        )
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._on_call, done)

    def _revive(self, number: int, encoder: Encoder) -> None:
        while not self.queue.closed:
            try:
                if encoder.revive():
                    self._on_restart()
            except AdaptrtError as error:
                self._lost.add(number)
                log.error("%s; it is tried again", error)
                time.sleep(_PAUSE)
            else:
                self._lost.discard(number)
                return

    def _deliver(self, call: Call, result: Vectors | ApiError) -> None:
        """In the loop: each text's vector to the request that waits for it."""
        if isinstance(result, ApiError):
            for ticket in {owner for owner, _ in call.places}:
                if (waiter := self._waiters.get(ticket)) is not None:
                    waiter.fail(result)
            return
        if call.order.window is not None:
            ((owner, index),) = call.places
            if (waiter := self._waiters.get(owner)) is not None:
                waiter.give(index, result)
            return
        for (owner, index), vector in zip(call.places, result, strict=True):
            if (waiter := self._waiters.get(owner)) is not None:
                waiter.give(index, vector)


class _Waiter:
    """What a request has got so far."""

    def __init__(self, done: asyncio.Future[None], count: int) -> None:
        self.done, self.left = done, count
        self.parts: list[Vectors] = [np.empty(0, np.float32)] * count

    def give(self, index: int, part: Vectors) -> None:
        self.parts[index] = part
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: ApiError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


def _failed() -> ApiError:
    return ApiError(problems.FAILED, "the encoder failed; the server's log says more")
