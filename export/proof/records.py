"""What a proof says: sections with figures, tables and charts, as ``proof.json`` holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from runtimes.choices import Choice

SCHEMA = 1
# Raised where what is computed or how it is judged changes: kept work of another is not used.
VERSION = 1


class Verdict(Choice):
    """How a section ends."""

    PROVED = "proved"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"
    NOT_EXECUTABLE = "not executable here"


class Word(Choice):
    """What happened to a file of the bundle on this machine."""

    RUN = "run"
    EMULATED = "emulated"
    TRACED = "run as the traced module"
    BUILT = "built, not executed"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number of a section; ``limit`` is the most it may be, None where nothing hangs on it."""

    name: str
    value: float
    limit: float | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text; the last ``numbers`` columns are figures."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: int = 0


@dataclass(frozen=True, kw_only=True)
class Point:
    """A length in tokens, with the worst and the mean 1 - cosine of its texts."""

    tokens: int
    worst: float
    mean: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One executor's errors by length."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A row of a chart: the worst and the mean 1 - cosine of what it names.

    ``wrong`` are those that are meant to be refused; ``note`` says what the error does not show.
    """

    name: str
    worst: float
    mean: float
    wrong: bool = False
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Curves by length, or a row for each mark. ``gate`` is the greatest error that passes."""

    title: str
    gate: float
    curves: tuple[Curve, ...] = ()
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a section; ``reason`` says why it is anything but proved."""

    verdict: Verdict
    reason: str = ""
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SectionReport:
    """A section with what it claims, how that was tried, and what came of it."""

    name: str
    title: str
    claim: str
    method: str
    result: Result


@dataclass(frozen=True, kw_only=True)
class Executed:
    """What happened to one graph or engine; ``longest`` text in tokens, 0 where nothing ran it."""

    label: str
    file: str
    word: Word
    by: str
    longest: int = 0
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The contents of ``proof.json``.

    ``subject`` is the label of the executor that every section ran; ``facts`` are the bundle's and
    the checkpoint's, ``seconds`` those of all work, over every call that it was spread over.
    """

    schema: int
    version: int
    verdict: Verdict
    bundle: str
    subject: str
    facts: Mapping[str, str]
    executed: tuple[Executed, ...]
    sections: tuple[SectionReport, ...]
    date: str
    machine: str
    seconds: float

    @property
    def failed(self) -> tuple[SectionReport, ...]:
        """The sections that failed."""
        return tuple(s for s in self.sections if s.result.verdict is Verdict.FAILED)

    def to_json(self) -> dict[str, object]:
        """Plain JSON types."""
        return asdict(self)
