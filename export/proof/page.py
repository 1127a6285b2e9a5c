"""``proof.html``: the proof on one page that opens anywhere, for somebody new to the project."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from export.proof.records import Chart, Executed, Figure, Proof, SectionReport, Table, Verdict, Word
from export.report.error_charts import ErrorCurve, ErrorRow, error_curves, error_rows
from export.report.html import Content, Element, document, element, table

_STYLES = (
    Path(__file__).parents[1] / "report" / "report.css",
    Path(__file__).parent / "proof.css",
)
_MARKS = {
    Verdict.PROVED: "✓",
    Verdict.FAILED: "✗",
    Verdict.NOT_APPLICABLE: "–",
    Verdict.NOT_EXECUTABLE: "○",
}
_WORDS = {
    Word.RUN: "the file itself computed the vectors on this machine",
    Word.TRACED: "PyTorch's form of the graph, with the file's weights, computed them",
    Word.EMULATED: "what the compiled engine would compute was worked out on a CPU, from its plan",
    Word.BUILT: "the file is in the bundle and its hash was checked; nothing ran it here",
}
_LONG = 12  # rows of a table that is folded away
_LABEL = 150  # of the charts' names; about 6.2 a letter


def proof_page(proof: Proof) -> str:
    """The whole page."""
    title = f"Proof: {proof.facts['model']}, {proof.bundle}"
    return document(
        title,
        "\n".join(path.read_text(encoding="utf-8") for path in _STYLES),
        element("h1", title),
        _banner(proof),
        _introduction(proof),
        _facts(proof),
        element("h2", "The claims"),
        _overview(proof),
        element("h2", "What was executed, and where"),
        *_executed(proof),
        *(part for section in proof.sections for part in _section(section)),
    )


def _banner(proof: Proof) -> Element:
    good = proof.verdict is Verdict.PROVED
    counts = {v: sum(s.result.verdict is v for s in proof.sections) for v in Verdict}
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    word = "PROVED" if good else "FAILED"
    ran = [f"{n} {word}" for word in Word if (n := sum(e.word is word for e in proof.executed))]
    sentence = (
        "Every claim below that can be tried on this machine holds."
        if good
        else "At least one claim does not hold. Do not use this bundle before you know why."
    )
    return element(
        "div",
        element("strong", f"{_MARKS[proof.verdict]} {word}"),
        element("p", sentence),
        element(
            "p",
            f"{len(proof.sections)} claims: {told}. Graphs and engines on this machine: "
            f"{', '.join(ran)}.",
        ),
        class_=f"banner {'is-good' if good else 'is-bad'}",
    )


def _introduction(proof: Proof) -> Element:
    return element(
        "p",
        "A text-embedding model turns a text into a vector, a list of numbers; texts that mean "
        "alike get vectors that point alike. This bundle is such a model, converted to run "
        "elsewhere than in PyTorch. This page is the evidence that it still gives the vectors of "
        "the checkpoint that it was made from. The checkpoint was run beside it: by transformers "
        "and PEFT, not by anything that took part in the conversion. ",
        f"Made on {proof.date} on {proof.machine}, in {_minutes(proof.seconds)} of work.",
    )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def _facts(proof: Proof) -> Element:
    items = (element("div", element("span", name), value) for name, value in proof.facts.items())
    return element("div", *items, class_="facts")


def _overview(proof: Proof) -> Element:
    rows: list[list[Content]] = [
        [
            element("a", section.title, href=f"#{section.name}"),
            section.claim,
            _verdict(section.result.verdict),
        ]
        for section in proof.sections
    ]
    return table(["", "claim", "verdict"], rows)


def _verdict(verdict: Verdict) -> Element:
    style = {Verdict.PROVED: "good", Verdict.FAILED: "bad"}.get(verdict, "neutral")
    return element("span", f"{_MARKS[verdict]} {verdict}", class_=f"verdict {style}")


def _executed(proof: Proof) -> list[Element]:
    words = [word for word in Word if any(e.word is word for e in proof.executed)]
    terms: list[Content] = []
    for word in words:
        terms += [element("b", word.value), f": {_WORDS[word]}. "]
    rows: list[list[Content]] = [_executed_row(entry, proof.subject) for entry in proof.executed]
    head = ["part", "file", "what happened", "by", "longest text"]
    return [
        element(
            "p",
            f"Every section ran “{proof.subject}”; by length, language and task everything else "
            "that runs here was compared too.",
        ),
        element("p", *terms),
        table(head, rows, numbers=1),
    ]


def _executed_row(entry: Executed, subject: str) -> list[Content]:
    label: Content = element("b", entry.label) if entry.label == subject else entry.label
    note = f" ({entry.note})" if entry.note else ""
    longest = f"{entry.longest} tokens" if entry.longest else ""
    return [label, element("code", entry.file), f"{entry.word}{note}", entry.by, longest]


def _section(section: SectionReport) -> list[Element]:
    result = section.result
    parts = [
        element("h2", section.title, " ", _verdict(result.verdict), id=section.name),
        element("p", section.claim, class_="claim"),
        element("p", element("b", "How: "), section.method),
    ]
    if result.reason:
        style = "reason bad" if result.verdict is Verdict.FAILED else "reason"
        parts.append(element("p", element("b", "Why: "), result.reason, class_=style))
    if result.figures:
        parts.append(_figures(result.figures))
    parts += [_chart(chart) for chart in result.charts]
    parts += [_table(found) for found in result.tables]
    return parts


def _figures(figures: Sequence[Figure]) -> Element:
    items = []
    for figure in figures:
        limit = [] if figure.limit is None else [element("small", _limit(figure))]
        value = element("b", _number(figure.value))
        items.append(element("div", element("span", figure.name), value, *limit))
    return element("div", *items, class_="facts")


def _limit(figure: Figure) -> str:
    limit = figure.limit if figure.limit is not None else 0.0
    holds = "✓" if figure.value <= limit else "✗"
    return f" allowed: {_number(limit)} {holds}"


def _number(value: float) -> str:
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:.1e}" if abs(value) < 0.01 else f"{value:.3g}"


def _chart(chart: Chart) -> Element:
    if chart.curves:
        curves = [
            ErrorCurve(name=c.name, points=[(p.tokens, p.worst, p.mean) for p in c.points])
            for c in chart.curves
        ]
        drawn = error_curves(chart.title, curves, chart.gate)
        legend: list[Content] = []
        for index, curve in enumerate(curves):
            legend += [element("span", "■", class_=f"curve-{index % 4}"), f" {curve.name}  "]
        note = element("p", *legend, "A line is the worst text, a dashed one the mean.")
    else:
        label = min(330, _LABEL + max(0, max(len(m.name) for m in chart.marks) - 22) * 6)
        rows = [
            ErrorRow(
                name=mark.name,
                worst=mark.worst,
                mean=mark.mean,
                style="wrong" if mark.wrong else "right",
                note=mark.note,
            )
            for mark in chart.marks
        ]
        drawn = error_rows(chart.title, rows, chart.gate, label=label)
        note = element("p", *_marks_note(chart))
    note.set("class", "legend")
    return element("figure", element("h3", chart.title), drawn, note)


def _marks_note(chart: Chart) -> list[Content]:
    told: list[Content] = ["The large dot is the worst text's 1 − cosine, the small one the mean. "]
    if any(mark.wrong for mark in chart.marks):
        told += [element("span", "■", class_="wrong"), " is wrong on purpose."]
    return told


def _table(found: Table) -> Element:
    rows = [[*map(_cell, row)] for row in found.rows]
    whole = table(list(found.head), rows, numbers=found.numbers)
    if len(found.rows) <= _LONG:
        return element("div", element("h3", found.title), whole)
    summary = element("summary", f"{found.title}: {len(found.rows)} rows")
    return element("details", summary, whole)


def _cell(text: str) -> Content:
    return element("span", text, class_="bad") if text == "ACCEPTED" else text
