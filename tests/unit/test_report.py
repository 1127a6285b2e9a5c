"""The INT8 report: complete, self-contained, escaped, and drawn to scale."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from calibration.evidence import Loss
from calibration.table import Corpus, Counts
from export.gate.compare import ParityReport, TextResult
from export.report.charts import Bar, bar_chart, error_histogram, error_scatter
from export.report.figures import (
    Attempt,
    GemmFigures,
    QuantisationFigures,
    RangeFigures,
    ReportData,
)
from export.report.html import Element, document, element, table
from export.report.page import write_report
from runtimes.choices import AdapterMode, Precision, Target
from runtimes.manifest import Quantisation, TableCost

NAMES = [f"encoder.layers.{i}.{part}" for i in range(2) for part in ("mixer.Wqkv", "mlp.fc1")]


def gemm(index: int, **changes: Any) -> GemmFigures:
    fell = index == 2
    figures = GemmFigures(
        name=NAMES[index],
        work=0.25,
        precision="float16" if fell else "int8",
        reason="alone it costs 3e-03" if fell else None,
        sensitivity=1e-3 * (index + 1),
        output_error=0.01,
        range=RangeFigures(
            alpha=0.5 if index else 0.0,
            observer="mse",
            scale=0.03,
            amplitude=3.81,
            maximum=4.0 + index,
        ),
    )
    return replace(figures, **changes)


SUMMARY = Quantisation(
    scheme=Precision.INT8,
    share=0.75,
    quantised=tuple(n for n in NAMES if n != NAMES[2]),
    fallback={NAMES[2]: "alone it costs 3e-03"},
    fallback_type="float16",
    observer="mse",
    calibration_key="k" * 64,
    corpus_sha256="c" * 64,
)


def text(name: str, tokens: int, cosine: float) -> TextResult:
    return TextResult(name=name, task="classification", tokens=tokens, cosine=cosine, max_abs=0.01)


TEXTS = (
    text("held-000-de", 20, 0.9951),
    text("query-001-ja", 300, 0.9999),
    text("document-600", 600, 1.0),
)


def data(summary: Quantisation = SUMMARY, **changes: Any) -> ReportData:
    report = ParityReport(
        reference="torch",
        executed="onnxruntime-cpu",
        rows=3,
        min_cosine=0.9951,
        mean_cosine=0.9987,
        max_abs=0.02,
        threshold=0.99,
        mean_threshold=0.998,
        passed=True,
        texts=TEXTS,
    )
    lost = Loss(
        figure="nDCG@10",
        units=144,
        confidence=0.98,
        exact=0.92,
        ours=0.91,
        loss=0.01,
        low=0.001,
        high=0.0213,
        limit=0.02,
        task="classification",
    )
    counts = Counts(task={"classification": 256}, language={"de": 11, "ja": 10}, length={"32": 133})
    figures = QuantisationFigures(
        summary=summary,
        settings={"observer": "mse", "seed": 0},
        corpus=Corpus(sha256="c" * 64, counts=counts),
        losses={"onnxruntime": (lost,)},
        looks=2,
        attempts=(
            Attempt(share=1.0, texts=3, min_cosine=0.98, mean_cosine=0.99, failure="parity failed"),
            Attempt(share=0.9, texts=3, min_cosine=0.991, mean_cosine=0.999, failure=None),
        ),
        gemms=tuple(gemm(i) for i in range(4)),
    )
    return ReportData(
        model="sample",
        task="classification",
        target=Target.ONNXRUNTIME,
        adapter=AdapterMode.MERGED,
        reports={"onnxruntime": report, "onnxruntime, 32 dimensions": report},
        quantisation=replace(figures, **changes),
    )


def test_a_quantised_table_is_told_where_there_is_one(tmp_path: Path) -> None:
    name = "quantised table alone"
    assert name not in page(tmp_path, data())
    cost = TableCost(rows=50, min_cosine=0.99997, mean_cosine=0.99999)
    told = page(tmp_path, replace(data(), table_cost=cost))
    assert name in told
    assert "0.99997, mean 0.99999" in told


def page(folder: Path, values: ReportData) -> str:
    write_report(folder / "report.html", values)
    return (folder / "report.html").read_text(encoding="utf-8")


def chart(text: str, title: str) -> Element:
    """One SVG of the page, parsed."""
    found = re.search(rf'<svg [^>]*aria-label="{title}".*?</svg>', text, re.DOTALL)
    assert found, title
    return ElementTree.fromstring(found[0])


def classes(root: Element, tag: str) -> list[str]:
    return [shape.get("class", "") for shape in root.iter(tag)]


def test_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    text = page(tmp_path, data())
    assert text.startswith("<!DOCTYPE html>")
    assert not re.search(r"<script|<link|<img|src=|href=|url\(|@import|https?:", text)
    assert "prefers-color-scheme: dark" in text


def test_every_section_is_there(tmp_path: Path) -> None:
    text = page(tmp_path, data())
    assert re.findall("<h2>(.*?)</h2>", text) == [
        "Gate",
        "Attempts",
        "Error of the vectors",
        "Sensitivity of each GEMM",
        "What fell back",
        "Scales and observed ranges",
        "Calibration",
    ]
    for words in (
        "75.0%",
        "3 of 4",
        "0.99510",
        "alone it costs 3e-03",
        "k" * 64,
        "c" * 64,
        "de 11, ja 10",
        "nDCG@10",
    ):
        assert words in text, words
    assert len(re.findall("<svg ", text)) == 5


def test_page_is_deterministic(tmp_path: Path) -> None:
    assert page(tmp_path, data()) == page(tmp_path, data())


def test_figures_below_what_is_asked_are_marked(tmp_path: Path) -> None:
    text = page(tmp_path, data())
    assert '<span class="bad">0.0213 ✗</span>' in text  # the bound of a loss, 0.02 asked
    assert '<span class="good">0.99510 ✓</span>' in text


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    values = data(settings={"prefixes": "<script>alert(1)</script>"})
    hostile = (replace(TEXTS[0], name='held-000-"><i>'), *TEXTS[1:])
    reports = {label: replace(r, texts=hostile) for label, r in values.reports.items()}
    values = replace(values, model="<b>&\"'", reports=reports)
    text = page(tmp_path, values)
    assert not re.search(r"<script|<b>|<i>", text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_sensitivity_is_sorted_and_marks_what_fell_back(tmp_path: Path) -> None:
    drawn = chart(page(tmp_path, data()), "Sensitivity of each GEMM")
    labels = [t.text for t in drawn.iter("text") if t.get("class") == "label"]
    assert labels == ["1.mlp.fc1", "1.mixer.Wqkv", "0.mlp.fc1", "0.mixer.Wqkv"]
    assert [c for c in classes(drawn, "rect") if c != "track"] == ["bar", "bar other", "bar", "bar"]
    widths = [float(r.get("width", 0)) for r in drawn.iter("rect") if "bar" in r.get("class", "")]
    assert [w / widths[0] for w in widths] == pytest.approx([1, 0.75, 0.5, 0.25], abs=0.01)


def test_ranges_show_clipping_and_smoothing(tmp_path: Path) -> None:
    drawn = chart(page(tmp_path, data()), "Scales and observed ranges")
    notes = [t.text for t in drawn.iter("text") if t.get("class") == "note"]
    assert notes[:2] == [
        "4 seen, clips at 3.81 · scale 0.03",
        "5 seen, clips at 3.81 · scale 0.03 · α 0.5",
    ]
    assert classes(drawn, "line") == ["mark"] * 4


def test_languages_are_read_from_the_texts_names(tmp_path: Path) -> None:
    drawn = chart(page(tmp_path, data()), "Error by language")
    labels = [t.text for t in drawn.iter("text") if t.get("class") == "label"]
    assert labels == ["de", "ja", "all"]  # the worst first; a document mixes all


def test_nothing_fell_back_and_nothing_was_measured(tmp_path: Path) -> None:
    gemms = (gemm(0, sensitivity=None, output_error=None),)
    summary = replace(SUMMARY, fallback={}, quantised=(NAMES[0],))
    text = page(tmp_path, data(summary, gemms=gemms))
    assert "Nothing: every GEMM is in INT8." in text
    assert not list(chart(text, "Sensitivity of each GEMM").iter("rect"))


def test_histogram_counts_every_text_once() -> None:
    errors = [5e-3, 1e-4, 1e-4, 2e-5, 0.0, 1.0]
    drawn = error_histogram(errors, 0.01)
    titles = [t.text or "" for t in drawn.iter("title")]
    assert sum(int(t.split()[0]) for t in titles) == len(errors)
    assert max(titles) == "2 texts"
    labels = [t.text for t in drawn.iter("text")]
    assert {"0.99", "0.999", "0.9999999"} <= set(labels)


def test_gate_and_dots_lie_where_their_errors_are() -> None:
    points = [(16.0, 1e-3, "a"), (16.0, 1e-5, "b"), (64.0, 1e-4, "c")]
    drawn = error_scatter(points, [], 1e-2)
    a, b, c = ((float(d.get("cx", 0)), float(d.get("cy", 0))) for d in drawn.iter("circle"))
    gate = next(line for line in drawn.iter("line") if line.get("class") == "gate")
    assert a[0] == b[0] < c[0]
    step = a[1] - float(gate.get("y1", 0))  # one decade
    assert step > 0
    assert (c[1] - a[1], b[1] - c[1]) == pytest.approx((step, step), abs=0.02)


def test_bars_of_nothing_do_not_divide_by_zero() -> None:
    drawn = bar_chart("t", [Bar("a", 0.0, "0")], label=50, note=50, width=200)
    assert [r.get("width") for r in drawn.iter("rect")] == ["100", "1"]


def test_markup_keeps_text_between_elements() -> None:
    made = element("p", "a ", element("b", "c"), " d", " e", class_="x", aria_label="y")
    assert ElementTree.tostring(made, "unicode") == '<p class="x" aria-label="y">a <b>c</b> d e</p>'


def test_table_aligns_its_last_columns() -> None:
    made = table(["a", "b"], [["1", "2"]], numbers=1)
    assert [cell.get("class") for cell in made.iter("td")] == [None, "number"]


def test_document_escapes_its_title() -> None:
    assert "<title>a &lt; b</title>" in document("a < b", "", element("p", "x"))


def test_sentence_says_to_ship_and_what_was_not_judged(tmp_path: Path) -> None:
    losses = data().quantisation.losses["onnxruntime"]
    chance = replace(losses[0], exact=0.1, least=0.2)
    kept = replace(losses[0], high=0.015)
    text = page(tmp_path, data(losses={"onnxruntime": (kept, chance)}))
    assert "Ship it: " in text
    assert "all 1 losses of quality that were judged are below their limits" in text
    assert "1 figures by labels were not judged" in text
    assert "parity failed" in text
    assert "published" in text


def test_page_of_a_refusal_says_why_and_that_quality_was_not_looked_at(tmp_path: Path) -> None:
    why = "parity failed for portable: minimum cosine 0.9"
    text = page(tmp_path, replace(data(losses={}), refusal=f"{why}; worst texts: a: 0.9"))
    assert f"Do not ship it, nothing was published: {why}. Calibrate" in text
    assert "Ship it" not in text
    assert "Not looked at: cosines come first, and they failed." in text
