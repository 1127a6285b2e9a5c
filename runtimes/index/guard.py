"""What stands between an open engine and the index that its vectors are for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from runtimes.choices import OutputType
from runtimes.errors import InputError
from runtimes.index.offer import Offer
from runtimes.index.read import Index, read_index
from runtimes.index.verdict import Verdict, compare


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Refuses what does not belong into ``index``, or is not to be searched for in it."""

    index: Index
    verdict: Verdict

    @classmethod
    def of(cls, engine: Offer, path: str | Path | Index, output: str | None = None) -> Guard:
        """Compare; raises :class:`~runtimes.errors.IndexMismatchError` with the reasons.

        ``output`` is the one type that the engine gives; None: any.
        """
        index = path if isinstance(path, Index) else read_index(path)
        verdict = compare(engine, index.fingerprint, output=output)
        return cls(index=index, verdict=verdict.require(engine.name, index.path))

    def check(
        self,
        tasks: Iterable[str] | None,
        dimensions: int,
        *,
        prefix: bool,
        output: str = OutputType.FLOAT32,
    ) -> None:
        """One call's arguments; :class:`InputError` where its vectors are not the index's.

        ``tasks`` None: the caller named none, and the engine has one.
        """
        one = self.index.fingerprint
        for task in set(tasks or ()):
            if task not in self.verdict.tasks:
                fitting = " or ".join(self.verdict.tasks)
                raise InputError(f"task: got {task}, expected {fitting} for the index {self._name}")
        if dimensions != one.dimensions:
            raise InputError(
                f"dimensions: got {dimensions}, expected {one.dimensions} for the index "
                f"{self._name}"
            )
        if output not in (one.output, OutputType.FLOAT32):
            raise InputError(
                f"output: got {output}, expected {one.output} or float32 for the index {self._name}"
            )
        if one.prefix and not prefix:  # without one, the engine's tasks have none either
            raise InputError(
                f"prefix: got {prefix}, but the index {self._name} was made with the task's "
                "instruction"
            )

    @property
    def _name(self) -> str:
        return str(self.index.path)
