"""Sections on how a bundle is called: neighbours, order, lengths and types, chunks, repetition."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from export.gate.chunks import CHUNKS
from export.proof.calls import company, output_missing
from export.proof.judgement import NEARER, NORM, errors, judged, position
from export.proof.parity_sections import allowed_change, limits, number, refusals, verdict_of
from export.proof.records import Figure, Result, Table, Verdict
from export.proof.steps import Evidence
from export.proof.subject import Subject
from export.proof.work import chunk_texts, languages_name, lengths_name
from runtimes.arrays import Encoded, Vectors
from runtimes.choices import HeadName, OutputType
from runtimes.outputs import OUTPUTS, STEPS, converter, truncate

_PACKED = (OutputType.BINARY, OutputType.UBINARY)


def neighbours(subject: Subject, evidence: Evidence) -> Result:
    """Each company's vectors beside those of the text alone, and beside the reference's."""
    found = evidence.arrays("neighbours")
    guests = company(subject)
    exact = np.concatenate(
        [evidence.vectors(lengths_name("reference", len(text.ids)))[:1] for text in guests]
    )
    allowed = allowed_change(subject, judged(exact, found["alone"]).worst)
    failures: list[str] = []
    rows, changes = [], []
    for name, ours in found.items():
        alone, right = found["alone"][: len(ours)], exact[: len(ours)]
        change = float(errors(alone, ours).max())
        most = float(np.abs(alone.astype(np.float64) - ours).max())
        away = judged(right, ours)
        failures += refusals(name, away, subject, mean=False)
        if not change <= allowed:
            failures.append(f"{name}: changed by {change:.2e} beside itself alone")
        changes.append(change)
        rows.append((name, str(len(ours)), number(change), number(most), number(away.worst)))
    verdict, reason = verdict_of(failures)
    head = ("the text is", "texts", "1 − cosine to itself alone", "greatest change of a number")
    return Result(
        verdict=verdict,
        reason=reason,
        figures=(
            Figure(name="ways to be called", value=len(found)),
            Figure(name="largest change, 1 − cosine", value=max(changes), limit=round(allowed, 12)),
        ),
        tables=(
            Table(
                title="Neighbours and padding",
                head=(*head, "1 − cosine to the reference"),
                rows=tuple(rows),
                numbers=4,
            ),
        ),
    )


def orders(subject: Subject, evidence: Evidence) -> Result:
    """Whichever order texts come in, each gets its own vector back."""
    if not subject.texts.sources:
        return Result(
            verdict=Verdict.NOT_APPLICABLE, reason="it covers none of the texts that are whole"
        )
    found = evidence.arrays("orders")
    task, texts = subject.texts.task, subject.texts.languages[subject.texts.task]
    at = [i for i, text in enumerate(texts) if text.name in subject.texts.sources]
    exact = evidence.vectors(languages_name("reference", task))[at]
    allowed = allowed_change(subject, judged(exact, found["as given"]).worst)
    failures: list[str] = []
    rows, changes = [], []
    for name, ours in found.items():
        change = float(errors(found["as given"], ours).max())
        place = position(exact, ours, np.roll(exact, 1, axis=0)) if len(exact) > 1 else 0.0
        failures += refusals(name, judged(exact, ours), subject)
        if not change <= allowed:
            failures.append(f"{name}: a vector changed by {change:.2e}")
        if not place < NEARER:
            failures.append(f"{name}: vectors lie nearer to the text's before them ({place:.3f})")
        changes.append(change)
        rows.append((name, str(len(ours)), number(change), f"{abs(place):.4f}"))
    verdict, reason = verdict_of(failures)
    head = ("order", "texts", "largest change, 1 − cosine", "on the way to another text's")
    return Result(
        verdict=verdict,
        reason=reason,
        figures=(
            Figure(name="orders", value=len(found)),
            Figure(name="largest change, 1 − cosine", value=max(changes), limit=round(allowed, 12)),
        ),
        tables=(Table(title="Orders", head=head, rows=tuple(rows), numbers=3),),
    )


def outputs(subject: Subject, evidence: Evidence) -> Result:
    """Each length in each type, beside the same made of the reference's vectors."""
    if not subject.texts.encoded:
        return Result(
            verdict=Verdict.NOT_APPLICABLE, reason="it covers none of the texts that are whole"
        )
    found = evidence.arrays("outputs")
    exact = _encoded_reference(subject, evidence)
    failures: list[str] = []
    rows, errors_found, lengths = [], [0.0], [0.0]
    for width in subject.manifest.dimensions:
        right, ours = truncate(exact, width), found[f"{width} {OutputType.FLOAT32}"]
        away = judged(right, ours)
        failures += refusals(f"{width} float32", away, subject)
        errors_found.append(away.worst)
        lengths.append(away.norm)
        cells = [number(away.worst)]
        for kind in OutputType:
            if kind is OutputType.FLOAT32:
                continue
            why = output_missing(subject, width, kind)
            if why is None:
                cell, failure = _type_row(subject, width, kind, right, ours, found)
                failures += [failure] if failure else []
                cells.append(cell)
            else:
                cells.append("not made by this bundle")
        rows.append((str(width), *cells))
    verdict, reason = verdict_of(failures)
    head = ("dimensions", "float32: worst 1 − cosine")
    types = (f"{kind}: values equal" for kind in OutputType if kind is not OutputType.FLOAT32)
    gate = subject.manifest.gate
    return Result(
        verdict=verdict,
        reason=reason,
        figures=(
            Figure(name="numbers of dimensions", value=len(rows)),
            Figure(name="types", value=len(OutputType)),
            Figure(
                name="worst 1 − cosine",
                value=max(errors_found),
                limit=round(1 - gate.min_cosine, 12),
            ),
            Figure(name="norm off 1 by", value=max(lengths), limit=NORM),
        ),
        tables=(
            Table(title="Dimensions and types", head=(*head, *types), rows=tuple(rows), numbers=6),
        ),
    )


def _encoded_reference(subject: Subject, evidence: Evidence) -> Vectors:
    task = subject.texts.task
    places = {text.name: i for i, text in enumerate(subject.texts.languages[task])}
    at = [places[text.name] for text in subject.texts.encoded]
    return evidence.vectors(languages_name("reference", task))[at]


def _type_row(
    subject: Subject,
    width: int,
    kind: OutputType,
    right: Vectors,
    ours: Vectors,
    found: Mapping[str, Encoded],
) -> tuple[str, str | None]:
    """How many values are the reference's, and what is wrong with the others, if anything is.

    A value may differ where the numbers it stands for do, and by no more than that explains:
    rounding to integers adds a step at most, and a sign changes only where the numbers' signs do.
    """
    convert = converter(
        kind, width, [subject.texts.task] * len(right), subject.manifest.output_ranges
    )
    expected, got = convert(right), found[f"{width} {kind}"]
    if got.dtype != np.dtype(OUTPUTS[kind].dtype) or got.shape != expected.shape:
        return "–", f"{width} {kind}: {got.dtype} {got.shape}, expected {expected.dtype}"
    if kind in _PACKED:
        return _bits(f"{width} {kind}", right, ours, expected, got)
    limit = subject.manifest.output_ranges[subject.texts.task][str(width)]
    allowed = np.abs(right.astype(np.float64) - ours).max() * STEPS / limit + 1
    steps = np.abs(expected.astype(int) - got.astype(int))
    share, most = float((steps == 0).mean()), int(steps.max())
    failure = None
    if not most <= allowed:
        failure = f"{width} {kind}: off by {most} steps, its numbers explain {allowed:.2f}"
    return f"{share:.2%}", failure


def _bits(
    name: str, right: Vectors, ours: Vectors, expected: Encoded, got: Encoded
) -> tuple[str, str | None]:
    changed = expected.view(np.uint8) ^ got.view(np.uint8)
    bits = np.unpackbits(changed, axis=1).astype(bool)
    unexplained = int((bits & ((right > 0) == (ours > 0))).sum())
    failure = f"{name}: {unexplained} signs that no number explains" if unexplained else None
    return f"{1 - float(bits.mean()):.2%}", failure


def chunks(subject: Subject, evidence: Evidence) -> Result:
    """Late chunking's vectors: thirds of a text and its middle, pooled from one pass."""
    if subject.manifest.head is not HeadName.CHUNKS:
        return Result(verdict=Verdict.NOT_APPLICABLE, reason="the bundle gives one vector per text")
    exact = evidence.vectors("reference/chunks")
    ours = evidence.vectors(f"{subject.speaker.label}/chunks")
    found = judged(exact, ours)
    failures = refusals("chunks", found, subject)
    texts = chunk_texts(subject)
    rows = []
    for index, text in enumerate(texts):
        part = slice(index * CHUNKS, (index + 1) * CHUNKS)
        own = judged(exact[part], ours[part])
        rows.append((text.name, str(len(text.ids)), number(own.worst), number(own.mean)))
    verdict, reason = verdict_of(failures)
    head = ("text", "tokens", "worst 1 − cosine", "mean 1 − cosine")
    return Result(
        verdict=verdict,
        reason=reason,
        figures=limits(found, subject),
        tables=(Table(title="Chunks by text", head=head, rows=tuple(rows), numbers=3),),
    )


def repeated(subject: Subject, evidence: Evidence) -> Result:
    """The same texts three times: twice in a session, and in one that was opened anew."""
    found = dict(evidence.arrays("repeated"))
    found["fresh"] = evidence.vectors("repeated in a fresh session")
    pairs = {"again in the same session": "second", "in a fresh session": "fresh"}
    rows, differing = [], 0
    for name, key in pairs.items():
        other = found[key]
        equal = np.array(
            [a.tobytes() == b.tobytes() for a, b in zip(found["first"], other, strict=True)]
        )
        differing += int((~equal).sum())
        gap = float(np.abs(found["first"].astype(np.float64) - other).max())
        rows.append((name, str(len(other)), str(int(equal.sum())), number(gap)))
    failures = [f"{differing} vectors are not the same bytes"] if differing else []
    verdict, reason = verdict_of(failures)
    head = ("repeated", "texts", "with the same bytes", "greatest difference of a number")
    return Result(
        verdict=verdict,
        reason=reason,
        figures=(Figure(name="vectors of other bytes", value=differing, limit=0),),
        tables=(Table(title="Repeated", head=head, rows=tuple(rows), numbers=3),),
    )
