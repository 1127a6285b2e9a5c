"""The local engine: worker processes with an embedder each, and what they are given to do.

A worker that ends in the middle of its work, because the system killed it or it crashed, is
replaced, and another one embeds its splits. Workers end when the driver does, however it ends:
with it ends their pipe.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import TYPE_CHECKING

from runtimes.corpus.job import Facts, describe, load
from runtimes.corpus.pipeline import Done, embed_splits
from runtimes.corpus.records import Job, Loading, Record, Split, Wanted
from runtimes.errors import AdaptrtError

if TYPE_CHECKING:
    from typing_extensions import Self

_START = 600.0  # seconds for opening a bundle
_END = 5.0  # seconds for a worker that has nothing to do any more
_GIVEN = 2  # splits at a time, so that one is read while the last of another is executed
_MOST_DEATHS = 3  # of workers, at one split


class LocalEngine:
    """So many worker processes on this machine; a context manager."""

    def __init__(self, loading: Loading, wanted: Wanted, workers: int) -> None:
        threads = loading.threads
        if threads is None and workers > 1:
            threads = max(1, len(os.sched_getaffinity(0)) // workers)
        self._loading = replace(loading, threads=threads, bundle=loading.bundle.absolute())
        self._wanted, self._count = wanted, workers
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        self._workers.append(_Worker(self._loading, self._wanted))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.close(kill=error is not None)

    def facts(self) -> Facts:
        """Of the bundle, as the first worker opened it; raises what opening it does."""
        return self._workers[0].facts()

    def run(self, job: Job, splits: Sequence[Split]) -> Iterator[Done | Record]:
        """What becomes of the splits, as it does; each has a :class:`Record` in the end."""
        waiting, deaths, left = deque(splits), Counter[int](), len(splits)
        job = replace(job, loading=self._loading)
        while len(self._workers) < min(self._count, left):
            self._workers.append(_Worker(self._loading))
        for worker in self._workers:
            worker.send(job)
        while left:
            for worker in self._workers:
                worker.give(waiting, fair=len(waiting) > len(self._workers))
            for worker in _ready(self._workers):
                try:
                    item = worker.receive()
                except (EOFError, OSError):
                    self._replace(worker, job, waiting, deaths)
                    continue
                if isinstance(item, BaseException):
                    raise item
                left -= isinstance(item, Record)
                yield item

    def _replace(
        self, worker: _Worker, job: Job, waiting: deque[Split], deaths: Counter[int]
    ) -> None:
        """Another worker in the place of one that is gone; its splits are done again."""
        code = worker.close(kill=True)
        unfinished = list(worker.given.values())
        if unfinished:
            deaths[unfinished[0].index] += 1
        if not unfinished or deaths[unfinished[0].index] >= _MOST_DEATHS:
            where = unfinished[0].file.path if unfinished else "its start"
            raise AdaptrtError(
                f"a worker ended at {where} with code {code}, {_MOST_DEATHS} times in a row; is "
                "the memory enough? fewer --workers need less"
            )
        waiting.extendleft(reversed(unfinished))
        self._workers[self._workers.index(worker)] = successor = _Worker(self._loading)
        successor.send(job)


class _Worker:
    """A process and what it was given."""

    def __init__(self, loading: Loading, describes: Wanted | None = None) -> None:
        context = get_context("spawn")  # a fork would inherit the threads' locks
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(loading, describes, theirs), name="adaptrt-embed", daemon=True
        )
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        self.given: dict[int, Split] = {}

    def facts(self) -> Facts:
        """The first thing that a worker says which describes the bundle."""
        try:
            first = self.pipe.recv() if self.pipe.poll(_START) else None
        except (EOFError, OSError):
            first = None
        if isinstance(first, BaseException):
            raise first
        if not isinstance(first, Facts):
            code = self.close(kill=True)
            raise AdaptrtError(f"a worker ended before its bundle was open, with code {code}")
        return first

    def give(self, waiting: deque[Split], *, fair: bool) -> None:
        """More to do. While it is ``fair`` to the others, the next split before it is needed."""
        while waiting and len(self.given) < (_GIVEN if fair else 1):
            split = waiting.popleft()
            self.given[split.index] = split
            self.send(split)

    def send(self, item: Job | Split) -> None:
        """Where the worker is gone, receiving says it."""
        try:
            self.pipe.send(item)
        except OSError:
            return

    def receive(self) -> Done | Record | BaseException:
        """What it says next, or what went wrong there; raises EOFError where it is gone."""
        item: Done | Record | BaseException = self.pipe.recv()
        if isinstance(item, Record):
            del self.given[item.split]
        return item

    def close(self, *, kill: bool = False) -> int | None:
        """Its exit code."""
        self.pipe.close()
        if kill:
            self._process.kill()
        self._process.join(_END)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        return self._process.exitcode


def _ready(workers: Sequence[_Worker]) -> list[_Worker]:
    found = wait([worker.pipe for worker in workers])
    return [worker for worker in workers if worker.pipe in found]


def _work(loading: Loading, describes: Wanted | None, pipe: Connection) -> None:
    """A worker's life: a job, then splits, until the driver hangs up.

    Ctrl-C goes to the whole group; the driver decides what becomes of its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with load(loading) as embedder:
            if describes is not None:
                pipe.send(describe(embedder, describes, loading))
            job = pipe.recv()
            for item in embed_splits(embedder, job, _orders(pipe)):
                pipe.send(item)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the driver is gone, or done
    except BaseException as error:  # noqa: BLE001 - the boundary: the driver says it
        pipe.send(_sendable(error))


def _orders(pipe: Connection) -> Iterator[Split]:
    try:
        while True:
            yield pipe.recv()
    except (EOFError, OSError):
        return


def _sendable(error: BaseException) -> BaseException:
    """The error itself where it survives the pipe, else its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever a library's class does not stand
        return AdaptrtError(f"a worker failed: {type(error).__name__}: {error}")
    return error
