"""A stage of a pipeline that runs ahead of the next one, in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
_PATIENCE = 0.2  # seconds until a thread looks again whether anybody still wants its items
_END = 1.0  # seconds for an item that is being made


@dataclass(frozen=True)
class _Item(Generic[T]):
    value: T


@dataclass(frozen=True)
class _End:
    error: BaseException | None


@contextmanager
def ahead(items: Iterable[T], most: int) -> Iterator[Iterator[T]]:
    """The items, of which ``most`` are made before they are asked for.

    What making them raises is raised where the next item is taken. When the block ends, the
    thread does too, unless it waits for something that never comes.
    """
    ready: queue.Queue[_Item[T] | _End] = queue.Queue(most)
    unwanted = threading.Event()

    def put(entry: _Item[T] | _End) -> bool:
        while not unwanted.is_set():
            try:
                ready.put(entry, timeout=_PATIENCE)
            except queue.Full:
                continue
            return True
        return False

    def make() -> None:
        error: BaseException | None = None
        try:
            with closing(_iterate(items)) as source:
                for value in source:
                    if not put(_Item(value)):
                        break
        except BaseException as raised:  # noqa: BLE001 - it is raised again in the other thread
            error = raised
        put(_End(error))

    def take() -> Iterator[T]:
        while isinstance(entry := ready.get(), _Item):
            yield entry.value
        if entry.error is not None:
            raise entry.error

    thread = threading.Thread(target=make, name="adaptrt-ahead", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        unwanted.set()
        thread.join(_END)


def _iterate(items: Iterable[T]) -> Generator[T, None, None]:
    """A generator that can be closed, of anything."""
    yield from items
