"""What the gate said, as the report shows it: ship or not, the attempts, cosines and losses."""

from __future__ import annotations

from calibration.evidence import Loss, Outcome
from calibration.looks import LOOKS, confidence
from export.report.figures import QuantisationFigures, ReportData
from export.report.html import Content, Element, element, table


def sentence(data: ReportData) -> str:
    """Whether to ship it, or that there is nothing to ship, and what to do."""
    figures = data.quantisation
    if data.refusal is not None:
        return (
            f"Do not ship it, nothing was published: {_brief(data.refusal)}. Calibrate on texts "
            "like yours (CALIBRATION_DATA), let more of the work leave the scheme "
            "(INT8_FALLBACK_MAX), or take a finer precision."
        )
    least = min(report.min_cosine for report in data.reports.values())
    losses = [loss for found in figures.losses.values() for loss in found]
    judged = [loss for loss in losses if loss.outcome is not Outcome.NOT_JUDGED]
    said = (
        f"Ship it: {figures.summary.share:.0%} of the products' work is in {figures.scheme.label}, "
        f"no cosine to FP32 is below {least:.5f}, and all {len(judged)} losses of quality "
        f"that were judged are below their limits with {confidence():.1%} confidence."
    )
    if len(judged) < len(losses):
        said += (
            f" {len(losses) - len(judged)} figures by labels were not judged, since FP32 itself is "
            "too near chance on them."
        )
    if any(label.startswith("emulated") for label in data.reports):
        said += " What the engines compute was emulated on a CPU."
    return said


def attempts_table(figures: QuantisationFigures) -> Element:
    """A row for each attempt that the gate judged, the last one published or refused."""
    rows: list[list[Content]] = [
        [
            _brief(attempt.failure or "published"),
            f"{attempt.share:.1%}",
            str(attempt.texts),
            f"{attempt.min_cosine:.5f}",
            f"{attempt.mean_cosine:.5f}",
        ]
        for attempt in figures.attempts
    ]
    head = ["what came of it", "work quantised", "texts", "minimum cosine", "mean cosine"]
    return table(head, rows, numbers=4)


def _brief(failure: str) -> str:
    """Without the texts that it names; the charts have them."""
    return failure.partition("; worst texts")[0]


def gate(data: ReportData) -> list[Element]:
    """Cosines and losses of quality by report, with what was asked for."""
    main = data.main
    cosines: list[list[Content]] = [
        [
            graph,
            str(r.rows),
            _judged(r.min_cosine, r.threshold, 5),
            _judged(r.mean_cosine, r.mean_threshold, 5),
            f"{r.max_abs:.1e}",
        ]
        for graph, r in data.reports.items()
    ]
    losses: list[list[Content]] = [
        [
            graph,
            loss.figure + (f" by {loss.task}" if loss.task else ""),
            str(loss.units),
            f"{loss.exact:.4f}",
            f"{loss.ours:.4f}",
            f"{loss.loss:.4f}",
            _below(loss),
            f"{loss.limit}",
        ]
        for graph, found in data.quantisation.losses.items()
        for loss in found
    ]
    gates = f"cosine: minimum ≥ {main.threshold}, mean ≥ {main.mean_threshold}"
    return [
        element(
            "p",
            f"On texts that no calibration sees, against FP32. Asked for: {gates}; and each loss "
            "of quality below its limit, at the confidence that is named.",
        ),
        table(
            ["graph", "texts", "minimum cosine", "mean cosine", "greatest difference"],
            cosines,
            numbers=4,
        ),
        element("h3", "Quality"),
        *_quality(data, losses),
    ]


def _quality(data: ReportData, losses: list[list[Content]]) -> list[Element]:
    if not losses:
        return [element("p", "Not looked at: cosines come first, and they failed.")]
    label = data.quantisation.scheme.label
    head = ["graph", "figure", "texts", "FP32", label, "loss", "below", "limit"]
    return [element("p", _drawn(data)), table(head, losses, numbers=6)]


def _drawn(data: ReportData) -> str:
    looks = data.quantisation.looks
    return (
        f"A loss is accepted where it is below its limit with {confidence():.1%} confidence "
        f"(paired bootstrap). It took {looks} of {len(LOOKS)} draws of texts to decide."
    )


def _below(loss: Loss) -> Element:
    if loss.outcome is Outcome.NOT_JUDGED:
        return element("span", f"not judged: FP32's is below {loss.least}")
    accepted = loss.outcome is Outcome.ACCEPTED
    mark = "✓" if accepted else "✗"
    return element("span", f"{loss.high:.4f} {mark}", class_="good" if accepted else "bad")


def _judged(value: float, least: float | None, digits: int) -> Element:
    passed = least is None or value >= least
    mark = "✓" if passed else "✗"
    return element("span", f"{value:.{digits}f} {mark}", class_="good" if passed else "bad")
