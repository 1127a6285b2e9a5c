"""Sections on the proof itself: does it refuse what is wrong, and how exact is its reference?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from export.proof.controls import CONTROLS
from export.proof.judgement import DISTINCT, distance, errors, judged, position, refused_by
from export.proof.parity_sections import number, verdict_of
from export.proof.records import Chart, Figure, Mark, Result, Table
from export.proof.steps import Evidence
from export.proof.subject import Subject
from export.proof.work import BF16, FLOOR, NO_TASK, PADDED, USUAL, WRONG_TASK, lengths_name
from runtimes.arrays import Vectors
from runtimes.outputs import truncate

_MODEL, _OWN = "the checkpoint made wrong", "the bundle's own graph asked wrongly"
_CUT = "the bundle's own vectors cut wrongly"
# The reference in other FP32 ways may differ by no more than FP32's own gate allows.
_FP32 = 1e-6


@dataclass(frozen=True, kw_only=True)
class _Wrong:
    """A control's vectors and how they are cut; ``made`` says of what."""

    name: str
    made: str
    vectors: Vectors
    cut: Callable[[Vectors, int], Vectors] = truncate

    def at(self, widths: Sequence[int]) -> tuple[int, ...]:
        """The lengths to judge it at, the full one first; what is only cut is right in that."""
        ends = (widths[-1], widths[0])
        return tuple(dict.fromkeys(ends[1:] if self.made == _CUT else ends))


def controls(subject: Subject, evidence: Evidence) -> Result:
    """Each control has to be refused by the judgement that the bundle passes beside it."""
    exact, ours = _exact(subject, evidence), _ours(subject, evidence)
    absent = dict(_absent(subject, evidence))
    failures: list[str] = []
    rows, marks = [], []
    own = judged(exact, ours)
    marks.append(Mark(name="this bundle", worst=own.worst, mean=own.mean))
    for wrong in _wrong(subject, evidence, ours):
        refused, passed, figures = _judge(subject, exact, ours, wrong)
        if not refused:
            failures.append(f"{wrong.name} ({wrong.made}) was accepted")
        if passed:
            failures.append(f"the bundle beside {wrong.name}: {', '.join(passed)}")
        rows.append((wrong.name, wrong.made, *figures, ", ".join(refused) or "ACCEPTED"))
        at = _error(subject, exact, wrong)
        shown = "worst cosine" in refused or not refused
        marks.append(
            Mark(
                name=f"{wrong.name}{_short(wrong)}",
                worst=at[0],
                mean=at[1],
                wrong=True,
                note="" if shown else f"refused by {refused[0]}",
            )
        )
    rows += [(name, why, "", "", "", "not applicable") for name, why in absent.items()]
    if len(rows) == len(absent):
        failures.append("no control could be run")
    verdict, reason = verdict_of(failures)
    head = ("control", "made of", "worst 1 − cosine", "norm off 1 by", "the bundle's place")
    return Result(
        verdict=verdict,
        reason=reason,
        figures=(
            Figure(name="controls", value=len(rows) - len(absent)),
            Figure(name="accepted", value=sum("accepted" in f for f in failures), limit=0),
        ),
        tables=(Table(title="Controls", head=(*head, "refused by"), rows=tuple(rows)),),
        charts=(
            Chart(
                title="Error of the bundle and of each control",
                gate=1 - subject.manifest.gate.min_cosine,
                marks=tuple(marks),
            ),
        ),
    )


def _short(wrong: _Wrong) -> str:
    return " (own graph)" if wrong.made == _OWN else ""


def _judge(
    subject: Subject, exact: Vectors, ours: Vectors, wrong: _Wrong
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, str, str]]:
    """What refuses a control, what would refuse the bundle, and the control's figures."""
    gate = subject.manifest.gate
    refused: dict[str, None] = {}
    passed: dict[str, None] = {}
    worst, length, place = 0.0, 0.0, 0.0
    for width in wrong.at(subject.manifest.dimensions):
        right, good, bad = (
            truncate(exact, width),
            truncate(ours, width),
            wrong.cut(wrong.vectors, width),
        )
        refused |= dict.fromkeys(refused_by(right, bad, bad, gate))
        passed |= dict.fromkeys(refused_by(right, good, bad, gate))
        found = judged(right, bad)
        worst, length = max(worst, found.worst), max(length, found.norm)
        if distance(right, bad) > DISTINCT:
            place = max(place, abs(position(right, good, bad)))
    return tuple(refused), tuple(passed), (number(worst), number(length), f"{place:.4f}")


def _error(subject: Subject, exact: Vectors, wrong: _Wrong) -> tuple[float, float]:
    """The greater of the errors at the full and the shortest length."""
    widths = wrong.at(subject.manifest.dimensions)
    found = [judged(truncate(exact, w), wrong.cut(wrong.vectors, w)) for w in widths]
    worst = max(found, key=lambda one: one.worst)
    return worst.worst, worst.mean


def _exact(subject: Subject, evidence: Evidence) -> Vectors:
    return _control_rows(subject, evidence, "reference")


def _ours(subject: Subject, evidence: Evidence) -> Vectors:
    return _control_rows(subject, evidence, subject.speaker.label)


def _control_rows(subject: Subject, evidence: Evidence, source: str) -> Vectors:
    """The vectors of the controls' texts, which are some of those of exact lengths."""
    parts, counts = [], [len(text.ids) for text in subject.texts.control]
    for tokens in dict.fromkeys(counts):
        parts.append(evidence.vectors(lengths_name(source, tokens))[: counts.count(tokens)])
    return np.concatenate(parts)


def _wrong(subject: Subject, evidence: Evidence, ours: Vectors) -> Iterator[_Wrong]:
    """Every control that this bundle and its checkpoint have."""
    cuts = len(subject.manifest.dimensions) > 1
    for name, control in CONTROLS.items():
        if f"control/{name}" in evidence:
            vectors = evidence.vectors(f"control/{name}")
            yield _Wrong(name=name, made=_MODEL, vectors=vectors, cut=control.cut)
        if name in (WRONG_TASK, NO_TASK) and f"own/{name}" in evidence:
            yield _Wrong(name=name, made=_OWN, vectors=evidence.vectors(f"own/{name}"))
        if control.cuts and cuts:
            yield _Wrong(name=name, made=_CUT, vectors=ours, cut=control.cut)
    if _padded(subject):
        yield _Wrong(name=PADDED, made=_OWN, vectors=evidence.vectors(f"own/{PADDED}"))


def _padded(subject: Subject) -> bool:
    return any(len(text.ids) < subject.manifest.max_tokens for text in subject.texts.control)


def _absent(subject: Subject, evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Controls that cannot be made, and why."""
    for name, control in CONTROLS.items():
        if control.cuts:
            if len(subject.manifest.dimensions) == 1:
                yield name, "the bundle's vectors have one length"
        elif (why := evidence.failed.get(f"control/{name}")) is not None:
            yield name, why


def floor(subject: Subject, evidence: Evidence) -> Result:
    """The reference in several ways, each against the one of every section."""
    found = evidence.arrays(FLOOR)
    usual = found[USUAL]
    own = _floor_ours(subject, evidence)
    failures: list[str] = []
    rows, marks = [], []
    for name, vectors in found.items():
        if name == USUAL:
            continue
        gaps = errors(usual, vectors)
        worst, mean = float(gaps.max()), float(gaps.mean())
        if name != BF16 and not worst <= _FP32:
            failures.append(f"the reference, {name}: 1 − cosine {worst:.2e}")
        rows.append((f"the reference: {name}", str(len(usual)), number(worst), number(mean)))
        marks.append(Mark(name=f"reference: {name}", worst=worst, mean=mean))
    gaps = errors(usual, own)
    rows.append(
        ("this bundle", str(len(own)), number(float(gaps.max())), number(float(gaps.mean())))
    )
    marks.append(Mark(name="this bundle", worst=float(gaps.max()), mean=float(gaps.mean())))
    verdict, reason = verdict_of(failures)
    fp32 = [float(errors(usual, v).max()) for n, v in found.items() if n not in (USUAL, BF16)]
    return Result(
        verdict=verdict,
        reason=reason,
        figures=(
            Figure(name="texts", value=len(usual)),
            Figure(name="worst of the reference in FP32 and FP64", value=max(fp32), limit=_FP32),
            Figure(
                name="worst of the reference in BF16", value=float(errors(usual, found[BF16]).max())
            ),
            Figure(name="worst of this bundle", value=float(gaps.max())),
        ),
        tables=(
            Table(
                title="Against the reference",
                head=("what", "texts", "worst 1 − cosine", "mean 1 − cosine"),
                rows=tuple(rows),
                numbers=3,
            ),
        ),
        charts=(
            Chart(
                title="How exact the reference is, and this bundle",
                gate=1 - subject.manifest.gate.min_cosine,
                marks=tuple(marks),
            ),
        ),
    )


def _floor_ours(subject: Subject, evidence: Evidence) -> Vectors:
    counts = [len(text.ids) for text in subject.texts.floor]
    return np.concatenate(
        [
            evidence.vectors(lengths_name(subject.speaker.label, tokens))[: counts.count(tokens)]
            for tokens in dict.fromkeys(counts)
        ]
    )
