"""The one seam between text handling and whatever executes the graph."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from runtimes.arrays import Arrays
from runtimes.errors import AdaptrtError
from runtimes.text.batching import Budget

if TYPE_CHECKING:
    from typing_extensions import Self

Owner = TypeVar("Owner", bound="RuntimeBase")
Given = ParamSpec("Given")
Result = TypeVar("Result")


class Runtime(Protocol):
    """Named arrays in, named arrays out.

    The encoder takes ``input_ids`` and ``attention_mask`` (int64 ``[batch, sequence]``) and gives
    ``sentence_embedding`` (FP32 ``[batch, hidden]``, rows of length 1).
    """

    @property
    def name(self) -> str:
        """What executes, as manifests record it, for example ``onnxruntime-cpu``."""

    @property
    def budget(self) -> Budget:
        """How large the calls should be that this executor gets."""

    def run(self, inputs: Arrays) -> Arrays:
        """Execute once."""

    def close(self) -> None:
        """Free what the runtime holds."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


_STATE = threading.Lock()  # over the two fields below, of all runtimes; held for a comparison
_HERE: weakref.WeakSet[RuntimeBase] = weakref.WeakSet()  # those that no forked child can use
_ACTIVE: set[RuntimeBase] = set()  # those that somebody is inside
_forks = 0  # between the first process and this one


def _after_fork() -> None:
    """In the child: what its parent's threads are needed for is neither used nor freed.

    Freeing it would wait for them, also when the interpreter ends, so its count of references is
    raised for ever. The parent may have been comparing.
    """
    global _forks
    _forks += 1
    _STATE.release()
    for runtime in _ACTIVE:  # locks of what it executes may be held by threads that are not here
        runtime._born = -1
    for runtime in {*_HERE, *_ACTIVE}:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(runtime))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_STATE.acquire, after_in_parent=_STATE.release, after_in_child=_after_fork
    )


class RuntimeBase:
    """Context management, the end of a runtime's life, and a budget for those on a CPU.

    Closing twice does no harm, and closing while other threads are inside waits for nobody: calls
    under way are finished, the last of them frees. Using it afterwards is an
    :class:`AdaptrtError`. Subclasses say what to free in :meth:`_free` and mark what needs it
    with :func:`while_open`.
    """

    budget = Budget()
    reopen = "load it again"
    _closed = False
    _born: int | None = None  # in which process, of one that belongs there
    _users = 0
    _reload: Callable[[], Any] | None = None  # makes the same again, in another process too

    def _belongs_here(self) -> None:
        """A forked child, which has none of its threads and no GPU's context, cannot use it.

        Without this call it can, unless somebody was inside when it was forked.
        """
        self._born = _forks
        _HERE.add(self)

    def close(self) -> None:
        """Free what it holds."""
        with _STATE:
            last = not self._closed and self._users == 0
            self._closed = True
        if last and not self._left_behind:
            self._free()

    @property
    def _left_behind(self) -> bool:
        """Whether it was made in a process that this one was forked from, and belongs there."""
        return self._born is not None and self._born != _forks

    def check_open(self) -> None:
        """Raise :class:`AdaptrtError` where it was closed, or belongs to another process."""
        if self._left_behind:
            raise AdaptrtError(
                f"this {type(self).__name__} was opened before this process was forked, and its "
                "threads are in the other one; load the bundle here, or start processes with "
                "multiprocessing's 'spawn'"
            )
        if self._closed:
            raise AdaptrtError(f"this {type(self).__name__} is closed; {self.reopen}")

    def _free(self) -> None:
        """Free what it holds; called once, when nobody is inside."""

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        with _STATE:
            self.check_open()
            self._users += 1
            _ACTIVE.add(self)
        try:
            yield
        finally:
            with _STATE:
                self._users -= 1
                if self._users == 0:
                    _ACTIVE.discard(self)
                last = self._closed and self._users == 0
            if last and not self._left_behind:
                self._free()

    def __enter__(self) -> Self:
        self.check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickling and copying: what can be loaded again from its arguments is, nothing else."""
        self.check_open()
        if self._reload is None:
            raise TypeError(
                f"{type(self).__name__} cannot be pickled or copied: what it holds belongs to "
                "this process; make another one where it is needed"
            )
        return self._reload, ()


def while_open(
    method: Callable[Concatenate[Owner, Given], Result],
) -> Callable[Concatenate[Owner, Given], Result]:
    """A method that nothing is freed under, and that a closed runtime refuses."""

    @wraps(method)
    def guarded(self: Owner, /, *args: Given.args, **options: Given.kwargs) -> Result:
        with self._in_use():
            return method(self, *args, **options)

    return guarded
