"""``report.html``: what INT8 did to the vectors, in one file that opens anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from calibration.stratify import LENGTHS
from export.gate.retrieval import MIN_NDCG, MIN_OVERLAP
from export.report.charts import Bar, Span, bar_chart, error_histogram, error_scatter
from export.report.html import Content, Element, document, element, table

_STYLE = Path(__file__).parent / "report.css"
_WIDE = 1050
Data = Mapping[str, Any]


def write_report(path: Path, data: Data) -> None:
    """Write the page.

    ``data`` has ``model``, ``task``, ``precision``, ``target``, ``adapter``; the summary of one
    graph's parity (``graph``, ``reference``, ``executed``, ``rows``, ``min_cosine``,
    ``mean_cosine``, ``max_abs``, ``threshold``, ``mean_threshold``) and its ``texts``;
    ``reports``, the summaries of all graphs and lengths of vectors; and ``quantisation``, what
    ``parity.json`` records under that name.
    """
    title = f"INT8 report: {data['model']}, {data['task']}"
    style = _STYLE.read_text(encoding="utf-8")
    page = document(
        title,
        style,
        element("h1", title),
        element("p", f"{data['executed']} ({data['graph']} graph) against {data['reference']}"),
        _facts(data),
        element("h2", "Gate"),
        *_gate(data),
        element("h2", "Error of the vectors"),
        *_errors(data),
        element("h2", "Sensitivity of each GEMM"),
        *_sensitivity(data["quantisation"]),
        element("h2", "What fell back"),
        *_fallback(data["quantisation"]),
        element("h2", "Scales and observed ranges"),
        *_ranges(data["quantisation"]),
        element("h2", "Calibration"),
        *_calibration(data["quantisation"]),
    )
    path.write_text(page, encoding="utf-8")


def _facts(data: Data) -> Element:
    int8 = data["quantisation"]
    facts = {
        "target": data["target"],
        "adapter": data["adapter"],
        "GEMM work in INT8": f"{int8['share']:.1%}",
        "GEMMs in INT8": f"{len(int8['quantised'])} of {len(int8['gemms'])}",
        "the others": f"{int8['fallback_type']}",
        "observer": int8["observer"],
        "minimum cosine": f"{data['min_cosine']:.5f}",
        "mean cosine": f"{data['mean_cosine']:.5f}",
        "texts": str(data["rows"]),
    }
    items = (element("div", element("span", name), value) for name, value in facts.items())
    return element("div", *items, class_="facts")


def _gate(data: Data) -> list[Element]:
    cosines = [
        [
            label,
            str(r["rows"]),
            _judged(r["min_cosine"], r["threshold"], 5),
            _judged(r["mean_cosine"], r["mean_threshold"], 5),
            f"{r['max_abs']:.1e}",
        ]
        for label, r in data["reports"].items()
    ]
    kept = [
        [
            label,
            task,
            f"{r['exact_ndcg']:.4f}",
            f"{r['ndcg']:.4f}",
            _judged(r["ndcg_ratio"], MIN_NDCG, 4),
            _judged(r["overlap"], MIN_OVERLAP, 4),
        ]
        for label, tasks in data["quantisation"]["retrieval"].items()
        for task, r in tasks.items()
    ]
    wanted = f"cosine: minimum ≥ {data['threshold']}, mean ≥ {data['mean_threshold']}"
    return [
        element(
            "p",
            f"On texts that no calibration sees, against FP32. Asked for: {wanted}; "
            f"nDCG@10 ≥ {MIN_NDCG} of FP32's, top-10 overlap ≥ {MIN_OVERLAP}.",
        ),
        table(
            ["graph", "texts", "minimum cosine", "mean cosine", "greatest difference"],
            cosines,
            numbers=4,
        ),
        element("h3", "Retrieval"),
        table(
            ["graph", "task", "nDCG@10 FP32", "nDCG@10 INT8", "ratio", "top-10 overlap"],
            kept,
            numbers=4,
        ),
    ]


def _judged(value: float, least: float | None, digits: int) -> Element:
    passed = least is None or value >= least
    mark = "✓" if passed else "✗"
    return element("span", f"{value:.{digits}f} {mark}", class_="good" if passed else "bad")


def _errors(data: Data) -> list[Element]:
    texts = data["texts"]
    gate = round(1 - data["threshold"], 12)  # 0.01, not 0.010000000000000009
    errors = [_error(text) for text in texts]
    points = [
        (float(t["tokens"]), error, f"{_title(t)}: {error:.2e}")
        for t, error in zip(texts, errors, strict=True)
    ]
    left = element("div", element("h3", "Cosines"), error_histogram(errors, gate))
    right = element(
        "div", element("h3", "Error by length"), error_scatter(points, _class_means(texts), gate)
    )
    return [
        element(
            "p",
            "Error is 1 − cosine between a text's INT8 and FP32 vectors. Each dot is a "
            "text, each line the mean of a length class.",
        ),
        element("div", left, right, class_="pair"),
        element("h3", "Error by language"),
        element("p", "Mean of the language's texts; the tick is the worst one."),
        bar_chart("Error by language", _languages(texts), label=46, note=250, width=_WIDE),
    ]


def _error(text: Data) -> float:
    return 1 - float(text["cosine"])


def _title(text: Data) -> str:
    return f"{text['task']} {text['name']} ({text['tokens']} tokens)".strip()


def _class_means(texts: Sequence[Data]) -> list[Span]:
    spans = []
    longest = max(text["tokens"] for text in texts)
    for low, high in pairwise([0, *LENGTHS]):
        inside = [_error(text) for text in texts if low < text["tokens"] <= high]
        if inside:
            mean = fmean(inside)
            title = f"{low + 1} to {high} tokens, {len(inside)} texts: mean {mean:.2e}"
            spans.append(Span(max(low, 1), min(high, longest), mean, title))
    return spans


def _languages(texts: Sequence[Data]) -> list[Bar]:
    """The gate's texts are named for their language at the end; documents mix them all."""
    found: dict[str, list[float]] = {}
    for text in texts:
        mixed = text["name"].startswith("document")
        language = "all" if mixed else text["name"].rsplit("-", 1)[-1]
        found.setdefault(language, []).append(_error(text))
    bars = [
        Bar(
            language,
            fmean(errors),
            mark=max(errors),
            note=f"{fmean(errors):.2e}, worst {max(errors):.2e}, {len(errors)} texts",
        )
        for language, errors in found.items()
    ]
    return sorted(bars, key=lambda bar: -bar.value)


def _sensitivity(int8: Data) -> list[Element]:
    known = [gemm for gemm in int8["gemms"] if gemm["sensitivity"] is not None]
    ranked = sorted(known, key=lambda gemm: -gemm["sensitivity"])
    bars = [
        Bar(
            _short(g["name"]),
            max(g["sensitivity"], 0.0),
            style=_style(g),
            note=_note(
                f"{g['sensitivity']:.2e}", f"output error {_number(g['output_error'])}", _fell(g)
            ),
        )
        for g in ranked
    ]
    return [
        element(
            "p",
            "Mean 1 − cosine of the vectors when that GEMM alone is in INT8, the most "
            "sensitive first. Output error is relative, of the GEMM itself. ",
            *_legend(int8),
        ),
        bar_chart("Sensitivity of each GEMM", bars, label=150, note=330, width=_WIDE),
    ]


def _legend(int8: Data) -> list[Content]:
    parts: list[Content] = [element("span", "■ INT8", class_="int8")]
    if int8["fallback"]:
        parts += ["  ", element("span", f"■ {int8['fallback_type']}", class_="other")]
    return parts


def _fallback(int8: Data) -> list[Element]:
    if not int8["fallback"]:
        return [element("p", "Nothing: every GEMM is in INT8.")]
    work = {gemm["name"]: gemm["work"] for gemm in int8["gemms"]}
    rows = [
        [element("code", name), int8["fallback_type"], reason, f"{work[name]:.1%}"]
        for name, reason in int8["fallback"].items()
    ]
    return [table(["GEMM", "runs in", "why", "share of the work"], rows, numbers=1)]


def _ranges(int8: Data) -> list[Element]:
    bars = [
        Bar(
            _short(g["name"]),
            g["maximum"],
            mark=g["amplitude"],
            style=_style(g),
            note=_note(
                f"{_number(g['maximum'])} seen, clips at {_number(g['amplitude'])}",
                f"scale {_number(g['scale'])}",
                f"α {g['alpha']:.1f}" if g["alpha"] else "",
            ),
        )
        for g in int8["gemms"]
    ]
    return [
        element(
            "p",
            "Bar: the greatest magnitude seen at the GEMM's input; tick: where INT8 "
            "clips. Where SmoothQuant is on (α), the tick belongs to the smoothed input, "
            "which is why it may lie beyond the bar. ",
            *_legend(int8),
        ),
        bar_chart("Scales and observed ranges", bars, label=150, note=330, width=_WIDE),
    ]


def _calibration(int8: Data) -> list[Element]:
    corpus = int8["corpus"]
    names = {"key": int8["calibration_key"], "corpus": corpus["sha256"]} | dict(int8["settings"])
    rows = [[name, element("code", str(value))] for name, value in names.items()]
    parts = [table(["setting", "value"], rows)]
    for kind, counted in corpus["counts"].items():
        parts.append(element("h3", f"Texts by {kind}"))
        listed = ", ".join(f"{name or 'base'} {count}" for name, count in counted.items())
        parts.append(element("p", listed))
    return parts


def _short(name: str) -> str:
    return name.removeprefix("encoder.layers.")


def _style(gemm: Data) -> str:
    return "bar" if gemm["precision"] == "int8" else "bar other"


def _fell(gemm: Data) -> str:
    return "" if gemm["precision"] == "int8" else f"in {gemm['precision']}"


def _note(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
