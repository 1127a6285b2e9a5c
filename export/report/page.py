"""``report.html``: what quantising did to the vectors, in one file that opens anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from calibration.stratify import LENGTHS
from export.gate.compare import TextResult
from export.report.charts import Bar, Span, bar_chart, error_histogram, error_scatter
from export.report.figures import GemmFigures, QuantisationFigures, ReportData
from export.report.html import Content, Element, document, element, table
from export.report.verdict import attempts_table, gate, sentence
from runtimes.manifest import Quantisation, TableCost, Vocabulary

_STYLE = Path(__file__).parent / "report.css"
_WIDE = 1050


def write_report(path: Path, data: ReportData) -> None:
    """Write the page; the graph that speaks for the target is drawn, all are in the tables."""
    figures, main = data.quantisation, data.main
    title = f"{figures.scheme.label} report: {data.model}, {data.task}"
    style = _STYLE.read_text(encoding="utf-8")
    page = document(
        title,
        style,
        element("h1", title),
        element("p", element("strong", sentence(data))),
        element("p", f"{main.executed} ({data.graph} graph) against {main.reference}"),
        _facts(data),
        element("h2", "Gate"),
        *gate(data),
        element("h2", "Attempts"),
        attempts_table(figures),
        element("h2", "Error of the vectors"),
        *_errors(data),
        element("h2", "Sensitivity of each GEMM"),
        *_sensitivity(figures),
        element("h2", "What fell back"),
        *_fallback(figures),
        *_ranges(figures),
        *_vocabulary(data.vocabulary),
        element("h2", "Calibration"),
        *_calibration(figures),
    )
    path.write_text(page, encoding="utf-8")


def _facts(data: ReportData) -> Element:
    summary, main, scheme = data.quantisation.summary, data.main, data.quantisation.scheme
    label = scheme.label
    facts = {
        "target": str(data.target),
        "adapter": str(data.adapter),
        f"GEMM work in {label}": f"{summary.share:.1%}",
        f"GEMMs in {label}": f"{len(summary.quantised)} of {len(data.quantisation.gemms)}",
        "the others": _others(summary),
        **({} if summary.block is None else {"block": str(summary.block)}),
        **({} if scheme.weight_only else {"observer": summary.observer}),
        **({} if data.table_cost is None else _table(data.table_cost)),
        "minimum cosine": f"{main.min_cosine:.5f}",
        "mean cosine": f"{main.mean_cosine:.5f}",
        "texts": str(main.rows),
    }
    items = (element("div", element("span", name), value) for name, value in facts.items())
    return element("div", *items, class_="facts")


def _table(cost: TableCost) -> dict[str, str]:
    return {"quantised table alone": f"{cost.min_cosine:.5f}, mean {cost.mean_cosine:.5f}"}


def _errors(data: ReportData) -> list[Element]:
    texts = data.main.texts
    gate = round(1 - data.main.threshold, 12)  # 0.01, not 0.010000000000000009
    errors = [_error(text) for text in texts]
    points = [
        (float(t.tokens), error, f"{_title(t)}: {error:.2e}")
        for t, error in zip(texts, errors, strict=True)
    ]
    left = element("div", element("h3", "Cosines"), error_histogram(errors, gate))
    right = element(
        "div", element("h3", "Error by length"), error_scatter(points, _class_means(texts), gate)
    )
    return [
        element(
            "p",
            f"Error is 1 − cosine between a text's {data.quantisation.scheme.label} and FP32 "
            "vectors. Each dot is a text, each line the mean of a length class.",
        ),
        element("div", left, right, class_="pair"),
        element("h3", "Error by language"),
        element("p", "Mean of the language's texts; the tick is the worst one."),
        bar_chart("Error by language", _languages(texts), label=46, note=250, width=_WIDE),
    ]


def _error(text: TextResult) -> float:
    return 1 - text.cosine


def _title(text: TextResult) -> str:
    return f"{text.task} {text.name} ({text.tokens} tokens)".strip()


def _class_means(texts: Sequence[TextResult]) -> list[Span]:
    spans = []
    longest = max(text.tokens for text in texts)
    for low, high in pairwise([0, *LENGTHS]):
        inside = [_error(text) for text in texts if low < text.tokens <= high]
        if inside:
            mean = fmean(inside)
            title = f"{low + 1} to {high} tokens, {len(inside)} texts: mean {mean:.2e}"
            spans.append(Span(max(low, 1), min(high, longest), mean, title))
    return spans


def _languages(texts: Sequence[TextResult]) -> list[Bar]:
    """The gate's texts are named for their language at the end; documents mix them all."""
    errors_of: dict[str, list[float]] = {}
    for text in texts:
        mixed = text.name.startswith("document")
        language = "all" if mixed else text.name.rsplit("-", 1)[-1]
        errors_of.setdefault(language, []).append(_error(text))
    bars = [
        Bar(
            language,
            fmean(errors),
            mark=max(errors),
            note=f"{fmean(errors):.2e}, worst {max(errors):.2e}, {len(errors)} texts",
        )
        for language, errors in errors_of.items()
    ]
    return sorted(bars, key=lambda bar: -bar.value)


def _sensitivity(figures: QuantisationFigures) -> list[Element]:
    label = figures.scheme.label
    known = [(g, g.sensitivity) for g in figures.gemms if g.sensitivity is not None]
    ranked = sorted(known, key=lambda pair: -pair[1])
    bars = [
        Bar(
            _short(g.name),
            max(cost, 0.0),
            style=_style(g),
            note=_note(f"{cost:.2e}", f"output error {_number(g.output_error)}", _fell(g)),
        )
        for g, cost in ranked
    ]
    return [
        element(
            "p",
            f"Mean 1 − cosine of the vectors when that GEMM alone is in {label}, the most "
            "sensitive first. Output error is relative, of the GEMM itself. ",
            *_legend(figures),
        ),
        bar_chart("Sensitivity of each GEMM", bars, label=150, note=330, width=_WIDE),
    ]


def _legend(figures: QuantisationFigures) -> list[Content]:
    summary = figures.summary
    parts: list[Content] = [element("span", f"■ {figures.scheme.label}", class_="quantised")]
    if summary.fallback:
        parts += ["  ", element("span", f"■ {_others(summary)}", class_="other")]
    return parts


def _others(summary: Quantisation) -> str:
    """What GEMMs that left the scheme run in."""
    left = summary.fallback.keys() - set(summary.eased)
    own = [str(summary.eased_to)] if summary.eased else []
    return ", ".join([*own, *([summary.fallback_type] if left or not own else [])])


def _fallback(figures: QuantisationFigures) -> list[Element]:
    summary = figures.summary
    if not summary.fallback:
        return [element("p", f"Nothing: every GEMM is in {figures.scheme.label}.")]
    gemms = {gemm.name: gemm for gemm in figures.gemms}
    rows: list[list[Content]] = [
        [element("code", name), gemms[name].precision, reason, f"{gemms[name].work:.1%}"]
        for name, reason in summary.fallback.items()
    ]
    return [table(["GEMM", "runs in", "why", "share of the work"], rows, numbers=1)]


def _ranges(figures: QuantisationFigures) -> list[Element]:
    """Nothing where weights alone are quantised."""
    bars = [
        Bar(
            _short(g.name),
            seen.maximum,
            mark=seen.amplitude,
            style=_style(g),
            note=_note(
                f"{_number(seen.maximum)} seen, clips at {_number(seen.amplitude)}",
                f"scale {_number(seen.scale)}",
                f"α {seen.alpha:.1f}" if seen.alpha else "",
            ),
        )
        for g in figures.gemms
        if (seen := g.range) is not None
    ]
    if not bars:
        return []
    return [
        element("h2", "Scales and observed ranges"),
        element(
            "p",
            "Bar: the greatest magnitude seen at the GEMM's input; tick: where "
            f"{figures.scheme.label} clips. Where SmoothQuant is on (α), the tick belongs to the "
            "smoothed input, which is why it may lie beyond the bar. ",
            *_legend(figures),
        ),
        bar_chart("Scales and observed ranges", bars, label=150, note=330, width=_WIDE),
    ]


def _vocabulary(record: Vocabulary | None) -> list[Element]:
    """Nothing where every token has a row."""
    if record is None:
        return []
    bars = [
        Bar(
            language,
            row.covered / row.texts,
            note=f"{row.covered / row.texts:.1%}, {row.covered} of {row.texts} texts",
        )
        for language, row in record.coverage.items()
    ]
    return [
        element("h2", "Vocabulary"),
        element(
            "p",
            f"{record.rows} of {record.of} tokens have a row: those that {record.texts} texts "
            f"({record.source}) use at least {record.min_count} times, and letters, digits and "
            "signs. Bar: the share of a language's texts without any other token, each tenth of "
            "the texts judged by a choice from the other nine. The comparisons on this page are on "
            f"covered texts; another text: {record.unknown}.",
        ),
        bar_chart("Texts covered by language", bars, label=90, note=250, width=_WIDE),
    ]


def _calibration(figures: QuantisationFigures) -> list[Element]:
    corpus = figures.corpus
    names = {"key": figures.summary.calibration_key, "corpus": corpus.sha256, **figures.settings}
    rows: list[list[Content]] = [
        [name, element("code", str(value))] for name, value in names.items()
    ]
    parts = [table(["setting", "value"], rows)]
    for kind, counted in asdict(corpus.counts).items():
        parts.append(element("h3", f"Texts by {kind}"))
        listed = ", ".join(f"{name or 'base'} {count}" for name, count in counted.items())
        parts.append(element("p", listed))
    return parts


def _short(name: str) -> str:
    return name.removeprefix("encoder.layers.")


def _style(gemm: GemmFigures) -> str:
    return "bar" if gemm.quantised else "bar other"


def _fell(gemm: GemmFigures) -> str:
    return "" if gemm.quantised else f"in {gemm.precision}"


def _note(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
