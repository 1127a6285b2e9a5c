"""CUDA graphs of the shapes that come again, within a bound."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from runtimes.executors.tensorrt.buffers import Resources, Shapes
from runtimes.executors.tensorrt.cuda import Cuda

GRAPHS = 16  # recorded shapes per profile; each keeps a context
_SIGHTS = 2  # of a shape that is recorded while there is room
# Of one that takes another's place: with more shapes than places in turn, each would else be
# recorded at every second sight.
_SIGHTS_TO_REPLACE = 8
_REMEMBERED = 256  # shapes whose sights are counted

_Key = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Recording:
    """A CUDA graph, the context it was recorded from (which must stay untouched), its outputs."""

    executable: int
    context: Any
    outputs: Shapes


class Recordings:
    """The graphs of one profile, the least recently used first, and sights of other shapes.

    The contexts of graphs that are given up serve again, so that there are at most
    :data:`GRAPHS`.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._graphs: OrderedDict[_Key, Recording] = OrderedDict()
        self._sights: OrderedDict[_Key, int] = OrderedDict()
        self._spare: list[Any] = []

    def find(self, shapes: Shapes) -> Recording | None:
        """The graph of these shapes."""
        key = _key(shapes)
        if key in self._graphs:
            self._graphs.move_to_end(key)
        return self._graphs.get(key)

    def is_due(self, shapes: Shapes) -> bool:
        """Count a sight of shapes without a graph; whether they are to be recorded now."""
        key = _key(shapes)
        self._sights[key] = self._sights.pop(key, 0) + 1
        if len(self._sights) > _REMEMBERED:
            self._sights.popitem(last=False)
        full = len(self._graphs) >= GRAPHS
        return self._sights[key] >= (_SIGHTS_TO_REPLACE if full else _SIGHTS)

    def take_context(self) -> Any | None:
        """Make room for one graph; a context that served before, None where there is none."""
        if len(self._graphs) >= GRAPHS:
            self._forget_oldest()
        return self._spare.pop() if self._spare else None

    def add(self, shapes: Shapes, recording: Recording) -> None:
        """Keep a graph."""
        key = _key(shapes)
        self._sights.pop(key, None)
        self._graphs[key] = recording

    def clear(self) -> None:
        """Give up every graph: what they have recorded is no longer so."""
        while self._graphs:
            self._forget_oldest()

    def close(self) -> None:
        """Give up graphs and contexts."""
        self.clear()
        self._spare.clear()

    def _forget_oldest(self) -> None:
        _, recording = self._graphs.popitem(last=False)
        with Resources() as resources:
            resources.keep(recording.executable, self._cuda.destroy_executable)
        self._spare.append(recording.context)


def _key(shapes: Shapes) -> _Key:
    return tuple(shapes.items())
