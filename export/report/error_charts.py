"""Charts of 1 - cosine on a logarithmic axis: curves by length, and a row for each thing compared.

The worst and the mean error are drawn of each; the gate is a line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from export.report.charts import LEAST_ERROR
from export.report.html import Element, element

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 860, 340, 76, 24, 14, 44
_ROW = 22
_LEAST = 1e-14  # FP64's cosines of FP32 vectors tell no less
_LABELS = 8  # of powers of ten on an axis across, at most
_STYLES = 4  # how many curves can be told apart


@dataclass(frozen=True, kw_only=True)
class ErrorCurve:
    """``points`` are (tokens, worst, mean)."""

    name: str
    points: Sequence[tuple[int, float, float]]


@dataclass(frozen=True, kw_only=True)
class ErrorRow:
    """A row: a dot at the mean and one at the worst, joined; ``style`` is a class of the page.

    ``note`` stands on the right; without one the worst does.
    """

    name: str
    worst: float
    mean: float
    style: str = "dot"
    note: str = ""


def error_curves(title: str, curves: Sequence[ErrorCurve], gate: float) -> Element:
    """Tokens against error: of each curve the worst as a line, the mean dashed."""
    points = [point for curve in curves for point in curve.points]
    low, high = _decades([error for _, worst, mean in points for error in (worst, mean)], gate)
    sizes = [tokens for tokens, _, _ in points]
    first, last = math.log2(min(sizes)), max(math.log2(max(sizes)), math.log2(min(sizes)) + 1)

    def x(tokens: float) -> float:
        return _LEFT + (math.log2(tokens) - first) / (last - first) * (_WIDTH - _RIGHT - _LEFT)

    def y(error: float) -> float:
        place = (math.log10(max(error, 10.0**low)) - low) / (high - low)
        return _HEIGHT - _BOTTOM - place * (_HEIGHT - _BOTTOM - _TOP)

    parts = [*_grid(x, y, sizes, low, high), *_gate(_LEFT, _WIDTH - _RIGHT, y(gate))]
    for index, curve in enumerate(curves):
        style = f"curve curve-{index % _STYLES}"
        for name, side, dash in (("worst", 1, ""), ("mean", 2, " mean-line")):
            line = " ".join(f"{x(point[0]):.1f},{y(point[side]):.1f}" for point in curve.points)
            parts.append(element("polyline", class_=style + dash, points=line))
            for point in curve.points:
                label = f"{curve.name}, {point[0]} tokens: {name} {point[side]:.1e}"
                dot = element("circle", class_=style, cx=x(point[0]), cy=y(point[side]), r=2.6)
                dot.insert(0, element("title", label))
                parts.append(dot)
    return _svg(title, _WIDTH, _HEIGHT, parts)


def error_rows(title: str, rows: Sequence[ErrorRow], gate: float, *, label: int) -> Element:
    """A row each; ``label`` is the width of the column of names."""
    width, note, top = _WIDTH, 150, 22
    low, high = _decades([error for row in rows for error in (row.worst, row.mean)], gate)
    bottom = top + len(rows) * _ROW

    def x(error: float) -> float:
        place = (math.log10(max(error, 10.0**low)) - low) / (high - low)
        return label + place * (width - note - label)

    parts = []
    for power in range(low, high + 1, math.ceil((high - low) / _LABELS)):
        at = x(10.0**power)
        parts.append(element("line", class_="grid", x1=at, x2=at, y1=top - 4, y2=bottom))
        parts.append(element("text", f"1e{power}", x=at, y=8, text_anchor="middle", class_="axis"))
    at = x(gate)
    parts.append(element("line", class_="gate", x1=at, x2=at, y1=top - 4, y2=bottom))
    parts.append(element("text", "gate", class_="gate", x=at, y=bottom + 10, text_anchor="middle"))
    for index, row in enumerate(rows):
        middle = top + index * _ROW + _ROW / 2
        line = [
            element("title", f"{row.name}: worst {row.worst:.1e}, mean {row.mean:.1e}"),
            element("text", row.name, x=label - 10, y=middle, text_anchor="end"),
            element(
                "line",
                class_=f"reach {row.style}",
                x1=x(row.mean),
                x2=x(row.worst),
                y1=middle,
                y2=middle,
            ),
            element("circle", class_=f"mean-dot {row.style}", cx=x(row.mean), cy=middle, r=3.2),
            element("circle", class_=f"worst-dot {row.style}", cx=x(row.worst), cy=middle, r=4.2),
            element(
                "text", row.note or f"{row.worst:.1e}", class_="note", x=width - note + 14, y=middle
            ),
        ]
        parts.append(element("g", *line))
    return _svg(title, width, bottom + 20, parts)


def _decades(errors: Sequence[float], gate: float) -> tuple[int, int]:
    """The powers of ten around all errors and the gate, down to FP32's own rounding at least."""
    drawn = [max(error, _LEAST) for error in (*errors, gate) if math.isfinite(error)]
    low = math.floor(math.log10(min([*drawn, LEAST_ERROR])))
    return low, max(math.ceil(math.log10(max(drawn))), low + 1)


def _grid(
    x: Callable[[float], float],
    y: Callable[[float], float],
    sizes: Sequence[int],
    low: int,
    high: int,
) -> list[Element]:
    """Lines at each length and power of ten, with their labels, and both axes' names."""
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts, last = [], -math.inf
    for tokens in sorted(set(sizes)):
        at = x(tokens)
        parts.append(element("line", class_="grid", x1=at, x2=at, y1=_TOP, y2=bottom))
        if at - last > 30:  # 4096, 6144 and 8192 would touch
            parts.append(element("text", str(tokens), x=at, y=bottom + 14, text_anchor="middle"))
            last = at
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(element("line", class_="grid", x1=_LEFT, x2=right, y1=at, y2=at))
        parts.append(element("text", f"1e{power}", x=_LEFT - 8, y=at, text_anchor="end"))
    names = (
        ("tokens", (_LEFT + right) / 2, _HEIGHT - 8, ""),
        ("1 − cosine", 12, (_TOP + bottom) / 2, f"rotate(-90 12 {(_TOP + bottom) / 2})"),
    )
    for name, at, down, turned in names:
        more = {"transform": turned} if turned else {}
        parts.append(
            element("text", name, class_="axis", x=at, y=down, text_anchor="middle", **more)
        )
    return parts


def _gate(left: float, right: float, at: float) -> list[Element]:
    return [
        element("line", class_="gate", x1=left, x2=right, y1=at, y2=at),
        element("text", "gate", class_="gate", x=right - 4, y=at - 7, text_anchor="end"),
    ]


def _svg(title: str, width: int, height: float, parts: Sequence[Element]) -> Element:
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {width} {height:g}",
        role="img",
        aria_label=title,
        width=width,
        height=height,
    )
