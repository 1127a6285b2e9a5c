"""Sections on what is in a bundle, and on its vectors by length, language and task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from export.bundle.staging import check_hashes
from export.engines.plan_file import bundle_plans
from export.engines.plan_rules import RULES
from export.gate.texts import ParityText, verified_tasks
from export.proof.judgement import Judged, errors, judged, position
from export.proof.records import Chart, Curve, Figure, Mark, Point, Result, Table, Verdict
from export.proof.steps import Evidence
from export.proof.subject import Runner, Subject
from export.proof.texts import language_of
from export.proof.work import FLOOR, USUAL, languages_name, lengths_name, mixed_texts
from runtimes.arrays import Vectors
from runtimes.errors import GateError

# What FP32's gate allows; and what roundings that fall otherwise may add up to.
_FP32, _TIMES = 1e-6, 4
BY_NORM, BY_LANGUAGE = "Error by length", "Error by language"


def number(value: float) -> str:
    """An error, as tables show it."""
    return "0" if value == 0 else f"{value:.1e}"


def verdict_of(failures: Sequence[str]) -> tuple[Verdict, str]:
    """Proved, or failed with the first reasons."""
    if not failures:
        return Verdict.PROVED, ""
    more = f"; and {len(failures) - 3} more" if len(failures) > 3 else ""
    return Verdict.FAILED, "; ".join(failures[:3]) + more


def refusals(what: str, found: Judged, subject: Subject, *, mean: bool = True) -> list[str]:
    """Why a judgement is no pass; of few texts the mean has no limit of its own."""
    names = found.refused_by(subject.manifest.gate)
    return [
        f"{what}: {name} ({_value(found, name)})" for name in names if mean or name != "mean cosine"
    ]


def _value(found: Judged, name: str) -> str:
    values = {"worst cosine": found.worst, "mean cosine": found.mean}
    if name in values:
        return f"1 − cosine {values[name]:.2e}"
    return f"off 1 by {found.norm:.2e}"


def limits(found: Judged, subject: Subject) -> tuple[Figure, ...]:
    """The worst and the mean error beside what the gate allows."""
    gate = subject.manifest.gate
    return (
        Figure(name="texts", value=found.texts),
        Figure(name="worst 1 − cosine", value=found.worst, limit=round(1 - gate.min_cosine, 12)),
        Figure(name="mean 1 − cosine", value=found.mean, limit=round(1 - gate.mean_cosine, 12)),
    )


def allowed_change(subject: Subject, own: float) -> float:
    """How much 1 - cosine a call may change a vector by, of which ``own`` is the error anyway.

    Some times that error, but no less than FP32 is allowed and no more than the gate.
    """
    return min(1 - subject.manifest.gate.min_cosine, max(_FP32, _TIMES * own))


def files(subject: Subject, evidence: Evidence) -> Result:
    """Hashed once more: what was run is what was built."""
    try:
        check_hashes(subject.folder)
    except GateError as error:
        reason = str(error).removeprefix(f"{subject.folder}: ")
        return Result(verdict=Verdict.FAILED, reason=reason)
    entries = subject.manifest.artifacts
    rows = tuple((e.path, e.kind, f"{e.bytes:,}", e.sha256[:16]) for e in entries)
    head = ("file", "kind", "bytes", "SHA-256 begins with")
    return Result(
        verdict=Verdict.PROVED,
        figures=(
            Figure(name="files", value=len(entries)),
            Figure(name="bytes", value=sum(e.bytes for e in entries)),
            Figure(name="files that differ", value=0, limit=0),
        ),
        tables=(Table(title="Files", head=head, rows=rows),),
    )


def plan(subject: Subject, evidence: Evidence) -> Result:
    """What the build found out about the engines' plans; plan.json is one of the hashed files."""
    manifest = subject.manifest
    plans = bundle_plans(subject.folder, manifest)
    if not plans:
        engines = any(entry.gpu is not None for entry in manifest.artifacts)
        why = "its engines' plans are not recorded" if engines else "the bundle has no engine"
        return Result(verdict=Verdict.NOT_APPLICABLE, reason=why)
    waived = set(manifest.plan_waived)
    rows = tuple(
        (rule.value, row.expected, "broken, by leave of its builder" if rule in waived else "kept")
        for rule, row in RULES.items()
    )
    return Result(
        verdict=Verdict.PROVED,
        reason=f"broken by leave: {', '.join(sorted(waived))}" if waived else "",
        figures=(
            Figure(name="engines with a plan", value=len(plans)),
            Figure(name="rules", value=len(rows)),
            Figure(name="broken by leave", value=len(waived)),
        ),
        tables=(Table(title="Rules", head=("rule", "what it asks for", "found"), rows=rows),),
    )


def lengths(subject: Subject, evidence: Evidence) -> Result:
    """Each executor against the reference, length by length."""
    failures: list[str] = []
    curves, rows, all_exact, all_ours = [], [], [], []
    for runner in subject.runners:
        points = []
        for tokens, exact, ours in _by_length(subject, runner, evidence):
            found = judged(exact, ours)
            failures += refusals(f"{runner.label}, {tokens} tokens", found, subject, mean=False)
            points.append(Point(tokens=tokens, worst=found.worst, mean=found.mean))
            rows.append(
                (
                    runner.label,
                    f"{tokens}",
                    f"{found.texts}",
                    number(found.worst),
                    number(found.mean),
                    number(found.norm),
                )
            )
            if runner is subject.speaker:
                all_exact.append(exact)
                all_ours.append(ours)
        curves.append(Curve(name=runner.label, points=tuple(points)))
    whole = judged(np.concatenate(all_exact), np.concatenate(all_ours))
    failures += refusals("all lengths", whole, subject)
    verdict, reason = verdict_of(failures)
    head = ("by", "tokens", "texts", "worst 1 − cosine", "mean 1 − cosine", "norm off 1 by")
    gate = 1 - subject.manifest.gate.min_cosine
    floor = _floor_curve(subject, evidence)
    return Result(
        verdict=verdict,
        reason=reason,
        figures=(*limits(whole, subject), Figure(name="longest, tokens", value=points_most(rows))),
        tables=(Table(title=BY_NORM, head=head, rows=tuple(rows), numbers=5),),
        charts=(Chart(title=BY_NORM, gate=gate, curves=(*curves, *floor)),),
    )


def points_most(rows: Sequence[tuple[str, ...]]) -> float:
    """The longest length of a table."""
    return max(float(row[1]) for row in rows)


def _by_length(
    subject: Subject, runner: Runner, evidence: Evidence
) -> Iterator[tuple[int, Vectors, Vectors]]:
    for tokens in subject.texts.lengths:
        if tokens <= runner.longest:
            exact = evidence.vectors(lengths_name("reference", tokens))
            yield tokens, exact, evidence.vectors(lengths_name(runner.label, tokens))


def _floor_curve(subject: Subject, evidence: Evidence) -> Iterator[Curve]:
    """The reference with attention computed in another way, beside itself."""
    name = "attention as plain products"
    if FLOOR not in evidence or name not in evidence.arrays(FLOOR):
        return
    found = evidence.arrays(FLOOR)
    gaps = errors(found[USUAL], found[name])
    lengths = np.array([len(text.ids) for text in subject.texts.floor])
    points = []
    for tokens in dict.fromkeys(int(n) for n in lengths):
        own = gaps[lengths == tokens]
        points.append(Point(tokens=tokens, worst=float(own.max()), mean=float(own.mean())))
    yield Curve(name="the reference against itself", points=tuple(points))


def languages(subject: Subject, evidence: Evidence) -> Result:
    """The first task's texts by their language, each executor in its column."""
    task = subject.texts.task
    texts = subject.texts.languages[task]
    exact = evidence.vectors(languages_name("reference", task))
    columns = {
        runner.label: evidence.vectors(languages_name(runner.label, task))
        for runner in subject.runners
    }
    failures: list[str] = []
    rows, marks = [], []
    named = dict.fromkeys(language_of(text) for text in texts)
    for language in named:
        at = [i for i, text in enumerate(texts) if language_of(text) == language]
        cells = []
        for label, ours in columns.items():
            found = judged(exact[at], ours[at])
            failures += refusals(f"{label}, {language}", found, subject, mean=False)
            cells += [number(found.worst), number(found.mean)]
            if label == subject.speaker.label:
                marks.append(Mark(name=language, worst=found.worst, mean=found.mean))
        rows.append((language, str(len(at)), *cells))
    whole = judged(exact, columns[subject.speaker.label])
    failures += refusals("all languages", whole, subject)
    verdict, reason = verdict_of(failures)
    head = ("language", "texts", *(f"{c}, {w}" for c in columns for w in ("worst", "mean")))
    marks.sort(key=lambda mark: -mark.worst)
    return Result(
        verdict=verdict,
        reason=reason,
        figures=(*limits(whole, subject), Figure(name="languages", value=len(named))),
        tables=(Table(title=BY_LANGUAGE, head=head, rows=tuple(rows), numbers=len(head) - 1),),
        charts=(
            Chart(title=BY_LANGUAGE, gate=1 - subject.manifest.gate.min_cosine, marks=tuple(marks)),
        ),
    )


def tasks(subject: Subject, evidence: Evidence) -> Result:
    """Each task alone, all of them in one batch, and whether each is told from the others."""
    failures: list[str] = []
    rows, marks, every = [], [], []
    known = verified_tasks(subject.manifest)
    mixed = _mixed(subject, evidence)
    for task in known:
        exact = evidence.vectors(languages_name("reference", task))
        for runner in subject.runners:
            found = judged(exact, evidence.vectors(languages_name(runner.label, task)))
            failures += refusals(f"{runner.label}, {task}", found, subject)
            cells = [number(found.worst), number(found.mean)]
            if task in mixed[runner.label]:
                both = judged(exact, mixed[runner.label][task])
                failures += refusals(f"{runner.label}, {task} among others", both, subject)
                cells += [number(both.worst), number(both.mean)]
            if runner is subject.speaker:
                marks.append(Mark(name=task, worst=found.worst, mean=found.mean))
                every.append(found.worst)
                place, nearest = _nearest_other(subject, evidence, task, known)
                cells += [] if nearest is None else [f"{abs(place):.4f} ({nearest})"]
                if nearest is not None and not place < 0.5:
                    failures.append(f"{task}: nearer to {nearest} than to itself ({place:.3f})")
            else:
                cells += [""] if len(known) > 1 else []
            rows.append((task, runner.label, str(found.texts), *cells))
    verdict, reason = verdict_of(failures)
    head = ["task", "by", "texts", "worst", "mean"]
    if len(known) > 1:
        head += ["worst, all tasks in one batch", "mean", "on the way to another task"]
    gate = subject.manifest.gate
    return Result(
        verdict=verdict,
        reason=reason,
        figures=(
            Figure(name="tasks", value=len(known)),
            Figure(name="worst 1 − cosine", value=max(every), limit=round(1 - gate.min_cosine, 12)),
        ),
        tables=(Table(title="Tasks", head=tuple(head), rows=tuple(rows), numbers=len(head) - 2),),
        charts=(Chart(title="Error by task", gate=1 - gate.min_cosine, marks=tuple(marks)),),
    )


def _mixed(subject: Subject, evidence: Evidence) -> dict[str, dict[str, Vectors]]:
    """By executor and task, what came out of batches of all tasks, in each task's order."""
    found: dict[str, dict[str, Vectors]] = {runner.label: {} for runner in subject.runners}
    if len(subject.texts.languages) == 1:
        return found
    places = {(text.task, text.name): i for i, text in enumerate(mixed_texts(subject))}
    for runner in subject.runners:
        vectors = evidence.vectors(f"{runner.label}/mixed")
        for task, own in subject.texts.languages.items():
            found[runner.label][task] = vectors[[places[task, text.name] for text in own]]
    return found


def _nearest_other(
    subject: Subject, evidence: Evidence, task: str, known: Sequence[str]
) -> tuple[float, str | None]:
    """The task that a task's vectors lie nearest to, on the way from their own."""
    ours = evidence.vectors(languages_name(subject.speaker.label, task))
    exact = evidence.vectors(languages_name("reference", task))
    own = {text.name: i for i, text in enumerate(subject.texts.languages[task])}
    best: tuple[float, str | None] = (-np.inf, None)
    for other in known:
        shared = _shared(own, subject.texts.languages[other]) if other != task else []
        if not shared:
            continue
        mine, theirs = ([pair[side] for pair in shared] for side in (0, 1))
        wrong = evidence.vectors(languages_name("reference", other))[theirs]
        best = max(best, (position(exact[mine], ours[mine], wrong), other))
    return best


def _shared(own: dict[str, int], other: Sequence[ParityText]) -> list[tuple[int, int]]:
    return [(own[text.name], i) for i, text in enumerate(other) if text.name in own]
