"""Whether an engine's vectors belong into an index: what must agree, and what is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from runtimes.arrays import Vectors
from runtimes.canaries import LEAST, texts_sha256
from runtimes.choices import Choice, OutputType, Side
from runtimes.errors import IndexMismatchError, InputError, shown
from runtimes.fingerprint import Fingerprint
from runtimes.index.offer import Offer
from runtimes.outputs import OUTPUTS, converter
from runtimes.schemes import SCHEMES


class Standing(Choice):
    """How an engine stands to an index."""

    COMPATIBLE = "compatible"  # the same, and the canaries say so
    COMPARABLE = "comparable"  # of another precision or target, at a loss
    MISMATCH = "not compatible"


# An index of the one is searched by vectors of the other.
SEARCHED_BY: Mapping[str, str] = {Side.PASSAGE: Side.QUERY}


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """Cosines between both sides' vectors of the same texts, and what they had to reach."""

    task: str
    count: int
    least: float
    mean: float
    gate: float
    mean_gate: float
    executed: str  # what embedded the engine's
    index_executed: str

    @property
    def passed(self) -> bool:
        """Whether both reach the gate's figures."""
        return self.least >= self.gate and self.mean >= self.mean_gate


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came out. ``tasks`` says what each task that fits does with the index.

    ``loss`` is 1 - the mean cosine of the canaries; None where nothing was measured. ``reasons``
    are why the two do not belong together.
    """

    standing: Standing
    tasks: Mapping[str, str]
    dimensions: int
    output: OutputType
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    canaries: Canaries | None = None

    @property
    def loss(self) -> float | None:
        """What is lost on average, as a cosine's distance from 1."""
        return None if self.canaries is None else max(0.0, 1 - self.canaries.mean)

    @property
    def fits(self) -> bool:
        """Compatible or comparable."""
        return self.standing is not Standing.MISMATCH

    def require(self, engine: str, index: object) -> Verdict:
        """Itself; :class:`IndexMismatchError` with every reason where they do not fit."""
        if self.fits:
            return self
        reasons = "; ".join(self.reasons)
        raise IndexMismatchError(f"index: {index} does not belong to {engine}: {reasons}")

    def to_json(self) -> dict[str, object]:
        """Plain JSON types."""
        return {**asdict(self), "loss": self.loss}

    def lines(self) -> Iterator[str]:
        """For people, the verdict first."""
        yield self._headline()
        for reason in self.reasons:
            yield f"  {reason}"
        if self.fits:
            for task, role in self.tasks.items():
                yield f"  {task}: {role}; {self.dimensions} dimensions, {self.output}"
        if (found := self.canaries) is not None:
            yield (
                f"  canaries: {found.count} texts of {found.task}, least cosine "
                f"{found.least:.7f} (gate {found.gate}), mean {found.mean:.7f} (gate "
                f"{found.mean_gate}); {found.executed} against {found.index_executed}"
            )
        for note in self.notes:
            yield f"  note: {note}"

    def _headline(self) -> str:
        if self.standing is not Standing.COMPARABLE:
            sides = set(self.tasks.values())
            query_only = self.fits and sides == {_QUERY_SIDE}
            return f"{self.standing}{' as its query side' if query_only else ''}"
        if self.loss is None:
            return "comparable, with a loss that these canaries cannot measure"
        return f"comparable with a loss of {self.loss:.2g} (1 - the mean cosine)"


_QUERY_SIDE = "searches it, as its query side"


def compare(
    engine: Offer,
    index: Fingerprint,
    *,
    task: str | None = None,
    dimensions: int | None = None,
    output: str | None = None,
) -> Verdict:
    """How ``engine`` stands to an index.

    ``task``, ``dimensions`` and ``output`` are what the engine will be asked for; None is what the
    index has. Names are compared first; only where all agree are the canaries of ``engine``
    embedded.
    """
    kind = index.output if output is None else OutputType.parse("output", output)
    width = index.dimensions if dimensions is None else dimensions
    tasks = _roles(engine, index.task)
    if task is not None:
        tasks = {name: role for name, role in tasks.items() if name == task}
    reasons = [
        *_names(engine, index, width, kind),
        *_tasks(engine, index, tasks, task),
    ]
    canaries = None
    if not reasons and index.task in engine.prefixes:
        canaries, refused = _measure(engine, index)
        reasons += refused
    same = (engine.precision, engine.target) == (index.precision, index.target)
    standing = Standing.COMPATIBLE if same else Standing.COMPARABLE
    return Verdict(
        standing=Standing.MISMATCH if reasons else standing,
        tasks=tasks,
        dimensions=width,
        output=kind,
        reasons=tuple(reasons),
        notes=() if reasons else tuple(_notes(engine, index, canaries)),
        canaries=canaries,
    )


def _roles(engine: Offer, task: str) -> dict[str, str]:
    """The tasks of ``engine`` that have to do with an index of ``task``, and what they do."""
    roles = {}
    searching = SEARCHED_BY.get(task)
    if task in engine.prefixes:
        roles[task] = "adds to it" if searching else "adds to it and searches it"
    if searching in engine.prefixes:
        roles[str(searching)] = _QUERY_SIDE
    return roles


def _names(engine: Offer, index: Fingerprint, width: int, kind: OutputType) -> Iterator[str]:
    """What differs of everything but the task."""
    if engine.model != index.model:
        yield (
            f"model: {engine.name} is of {shown(engine.model_name)} {engine.model[:12]}, the index "
            f"of {shown(index.model_name)} {index.model[:12]}"
        )
    if engine.tokenizer != index.tokenizer:
        yield (
            f"tokenizer: {engine.name} has {engine.tokenizer[:12]}, the index "
            f"{index.tokenizer[:12]}"
        )
    if engine.adapter != index.adapter:
        yield (
            f"adapter: {engine.name} has {_file(engine.adapter)} in its slot, the index was made "
            f"with {_file(index.adapter)}"
        )
    if not index.normalised:
        yield (
            f"normalisation: the index has vectors of any length, {engine.name} gives vectors of "
            "length 1"
        )
    if width != index.dimensions:
        yield f"dimensions: asked for {width}, the index has {index.dimensions}"
    elif width not in engine.dimensions:
        known = ", ".join(map(str, engine.dimensions))
        yield f"dimensions: the index has {width}, {engine.name} gives {known}"
    if kind not in (index.output, OutputType.FLOAT32):
        yield f"output type: asked for {kind}, the index has {index.output}"
    elif width in engine.dimensions and index.task in engine.prefixes:
        try:
            converter(kind, width, [index.task], engine.ranges)
        except InputError as error:
            yield f"output type: {str(error).removeprefix('output: ')}"


def _tasks(
    engine: Offer, index: Fingerprint, roles: Mapping[str, str], asked: str | None
) -> Iterator[str]:
    """What differs of tasks and their instructions."""
    if not roles:
        searching = SEARCHED_BY.get(index.task)
        fitting = f"{index.task}{f', which {searching} searches' if searching else ''}"
        got = f"asked for {asked}" if asked else f"{engine.name} has {', '.join(engine.prefixes)}"
        yield f"task: {got}, the index is of {fitting}"
        return
    own = engine.prefixes.get(index.task)
    if own is not None and own != index.prefix:
        yield (
            f"prefix: {engine.name} puts {shown(own)} before texts of {index.task}, the index was "
            f"made with {shown(index.prefix)}"
        )
    elif own is None:  # the query side, whose instruction is another: both have one, or neither
        (task,) = roles
        if bool(engine.prefixes[task]) != bool(index.prefix):
            yield (
                f"prefix: {engine.name} puts {shown(engine.prefixes[task])} before texts of "
                f"{task}, the index was made with {shown(index.prefix)} for {index.task}"
            )


def _measure(engine: Offer, index: Fingerprint) -> tuple[Canaries | None, list[str]]:
    """Both sides' canaries; and why they do not pass."""
    if index.canary_texts != texts_sha256():
        return None, [
            "canaries: the index has vectors of other texts, of another version of adaptrt; "
            "nothing can be measured"
        ]
    ours = engine.measure(index.task, index.dimensions, bool(index.prefix))
    pairs = zip(ours.vectors, index.vectors, strict=True)
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    if len(both) < LEAST:
        return None, [
            f"canaries: {engine.name} and the index have vectors of {len(both)} common texts, "
            f"expected at least {LEAST}"
        ]
    cosines = np.array([_cosine(a, b) for a, b in both])
    schemes = [SCHEMES[p] for p in (engine.precision, index.precision)]
    found = Canaries(
        task=index.task,
        count=len(both),
        least=float(cosines.min()),
        mean=float(cosines.mean()),
        gate=min(scheme.min_cosine for scheme in schemes),
        mean_gate=min(scheme.mean_cosine for scheme in schemes),
        executed=ours.executed,
        index_executed=index.executed,
    )
    if found.passed:
        return found, []
    return found, [
        f"vectors: by their names both are the same, but the canaries' cosines are at least "
        f"{found.least:.4f} and {found.mean:.4f} on average, expected {found.gate} and "
        f"{found.mean_gate}"
    ]


def _cosine(a: Vectors, b: Vectors) -> float:
    """In float64: lengths are 1 to float32's last digits alone."""
    first, second = a.astype(np.float64), b.astype(np.float64)
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


def _notes(engine: Offer, index: Fingerprint, canaries: Canaries | None) -> Iterator[str]:
    """What is worth knowing of two that fit."""
    if (engine.precision, engine.target) != (index.precision, index.target):
        yield (
            f"{engine.name} is in {engine.precision} for {engine.target}, the index was made in "
            f"{index.precision} for {index.target}"
        )
    if canaries is None:
        yield (
            f"only names were compared: the index has canaries of {index.task}, which "
            f"{engine.name} does not embed; a bundle of {index.task}, or a switchable one, can be "
            "measured"
        )
        if engine.parity is not None:
            yield (
                f"its own build measured a least cosine of {engine.parity.min_cosine:.7f} and "
                f"{engine.parity.mean_cosine:.7f} on average to PyTorch in FP32"
            )
    own = engine.ranges.get(index.task, {}).get(str(index.dimensions))
    if OUTPUTS[index.output].ranged and None not in (own, index.range) and own != index.range:
        yield (
            f"{index.output}: {engine.name} has {own} as 127, the index {index.range}: dot "
            "products differ by that factor, cosines do not"
        )


def _file(sha256: str | None) -> str:
    return "no file" if sha256 is None else f"a file {sha256[:12]}"
