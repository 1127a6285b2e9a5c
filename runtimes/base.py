"""The one seam between text handling and whatever executes the graph."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from numpy.typing import NDArray

from runtimes.scheduler import Budget

Arrays = Mapping[str, NDArray[Any]]


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


class RuntimeBase:
    """Context management for runtimes, and a budget for those on a CPU."""

    budget = Budget()

    def close(self) -> None:
        """Free what the runtime holds; nothing by default."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
