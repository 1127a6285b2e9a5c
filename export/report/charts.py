"""The report's charts as inline SVG. Colours come from the page's style, so dark mode works.

Errors are ``1 - cosine`` and span decades, so they are drawn on a logarithmic axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from export.report.html import Element, element

WIDTH = 520
_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 280, 62, 30, 14, 44
LEAST_ERROR = 1e-7  # FP32's own rounding; a cosine of 1 has no logarithm
_BINS_PER_DECADE = 8
_ROW = 20  # of a bar chart

Scale = Callable[[float], float]


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart: ``value`` as its length, ``mark`` a tick, ``note`` on its right."""

    label: str
    value: float
    note: str
    mark: float | None = None
    style: str = "bar"


@dataclass(frozen=True)
class Span:
    """A horizontal line in a scatter plot: a level between two places."""

    start: float
    end: float
    level: float
    title: str


def error_histogram(errors: Sequence[float], gate: float) -> Element:
    """How many texts have which cosine; better ones stand on the right."""
    low, high = _decades([*errors, gate])
    bins = (high - low) * _BINS_PER_DECADE
    counts = [0] * bins
    for error in errors:
        place = (math.log10(max(error, LEAST_ERROR)) - low) * _BINS_PER_DECADE
        counts[min(int(place), bins - 1)] += 1
    x = _linear(high, low, _LEFT, WIDTH - _RIGHT)
    top = max(counts)
    y = _linear(0, top, _HEIGHT - _BOTTOM, _TOP)
    bars = []
    for index, count in enumerate(counts):
        if count:
            left, right = (x(low + (index + side) / _BINS_PER_DECADE) for side in (1, 0))
            bars.append(
                _titled(
                    element(
                        "rect",
                        class_="bar",
                        x=left + 0.5,
                        y=y(count),
                        height=y(0) - y(count),
                        width=right - left - 1,
                    ),
                    f"{count} texts",
                )
            )
    ticks = [(x(k), _cosine(k)) for k in range(low, high + 1)]
    counted = [(y(n), str(n)) for n in range(0, top + 1, _round_step(top))]
    return _svg(
        "Histogram of cosines",
        _HEIGHT,
        *_frame(ticks, counted, "cosine to FP32", "texts"),
        *bars,
        *_gate_line(x(math.log10(gate)), y(0), x(math.log10(gate)), _TOP),
    )


def error_scatter(
    points: Sequence[tuple[float, float, str]], spans: Sequence[Span], gate: float
) -> Element:
    """Tokens against error, both logarithmic, a dot per text and a line per class's mean.

    ``points`` are (tokens, error, title).
    """
    low, high = _decades([*(error for _, error, _ in points), gate])
    sizes = [tokens for tokens, _, _ in points]
    first, last = math.floor(math.log2(min(sizes))), math.ceil(math.log2(max(sizes)))
    x = _linear(first, max(last, first + 1), _LEFT, WIDTH - _RIGHT)
    y = _linear(low, high, _HEIGHT - _BOTTOM, _TOP)

    def place(tokens: float, error: float) -> tuple[float, float]:
        return x(math.log2(tokens)), y(math.log10(max(error, LEAST_ERROR)))

    dots = []
    for tokens, error, title in points:
        cx, cy = place(tokens, error)
        dots.append(_titled(element("circle", class_="dot", cx=cx, cy=cy, r=2.5), title))
    lines = []
    for span in spans:
        (x1, level), (x2, _) = (
            place(min(max(t, 2.0**first), 2.0**last), span.level) for t in (span.start, span.end)
        )
        mean = element("line", class_="mean", x1=x1, x2=x2, y1=level, y2=level)
        lines.append(_titled(mean, span.title))
    xs = [(x(k), str(2**k)) for k in range(first, last + 1)]
    ys = [(y(k), f"1e{k}") for k in range(low, high + 1)]
    line = y(math.log10(gate))
    return _svg(
        "Error by length",
        _HEIGHT,
        *_frame(xs, ys, "tokens", "1 − cosine"),
        *dots,
        *lines,
        *_gate_line(_LEFT, line, WIDTH - _RIGHT, line),
    )


def bar_chart(title: str, bars: Sequence[Bar], *, label: int, note: int, width: int) -> Element:
    """Horizontal bars from 0; ``label`` and ``note`` are the widths of their columns."""
    longest = max((max(bar.value, bar.mark or 0) for bar in bars), default=0) or 1.0
    x = _linear(0, longest, label, width - note)
    rows = []
    for index, bar in enumerate(bars):
        top = index * _ROW
        middle = top + _ROW / 2
        row = [
            element("text", bar.label, class_="label", x=label - 8, y=middle, text_anchor="end"),
            element(
                "rect",
                class_="track",
                x=label,
                y=top + 4,
                width=x(longest) - label,
                height=_ROW - 8,
            ),
            element(
                "rect",
                class_=bar.style,
                x=label,
                y=top + 4,
                width=max(x(bar.value) - label, 1.0),
                height=_ROW - 8,
            ),
            element("text", bar.note, class_="note", x=width - note + 8, y=middle),
        ]
        if bar.mark is not None:
            row.insert(
                3,
                element(
                    "line",
                    class_="mark",
                    x1=x(bar.mark),
                    x2=x(bar.mark),
                    y1=top + 2,
                    y2=top + _ROW - 2,
                ),
            )
        rows.append(_titled(element("g", *row), f"{bar.label}: {bar.note}"))
    return _svg(title, len(bars) * _ROW, *rows, width=width)


def _svg(title: str, height: float, *content: Element, width: int = WIDTH) -> Element:
    return element(
        "svg",
        *content,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=title,
        width=width,
        height=height,
    )


def _titled(shape: Element, title: str) -> Element:
    shape.insert(0, element("title", title))
    return shape


def _frame(
    xs: Sequence[tuple[float, str]], ys: Sequence[tuple[float, str]], x_name: str, y_name: str
) -> list[Element]:
    """Grid lines with their labels, and both axes' names."""
    bottom, right = _HEIGHT - _BOTTOM, WIDTH - _RIGHT
    elements = []
    for x, label in xs:
        elements.append(element("line", class_="grid", x1=x, x2=x, y1=_TOP, y2=bottom))
        elements.append(element("text", label, x=x, y=bottom + 14, text_anchor="middle"))
    for y, label in ys:
        elements.append(element("line", class_="grid", x1=_LEFT, x2=right, y1=y, y2=y))
        elements.append(element("text", label, x=_LEFT - 8, y=y, text_anchor="end"))
    middle = (_TOP + bottom) / 2
    elements.append(
        element(
            "text",
            x_name,
            class_="axis",
            x=(_LEFT + right) / 2,
            y=_HEIGHT - 8,
            text_anchor="middle",
        )
    )
    elements.append(
        element(
            "text",
            y_name,
            class_="axis",
            x=14,
            y=middle,
            text_anchor="middle",
            transform=f"rotate(-90 14 {middle})",
        )
    )
    return elements


def _gate_line(x1: float, y1: float, x2: float, y2: float) -> list[Element]:
    upright = x1 == x2
    return [
        element("line", class_="gate", x1=x1, y1=y1, x2=x2, y2=y2),
        element(
            "text",
            "gate",
            class_="gate",
            x=x1 + 5 if upright else x2 - 4,
            y=y2 + 8 if upright else y2 - 7,
            text_anchor="start" if upright else "end",
        ),
    ]


def _linear(start: float, end: float, low: float, high: float) -> Scale:
    return lambda value: low + (value - start) / (end - start) * (high - low)


def _decades(errors: Sequence[float]) -> tuple[int, int]:
    """The powers of ten around all errors."""
    drawn = [max(error, LEAST_ERROR) for error in errors]
    low = math.floor(math.log10(min(drawn)))
    return low, max(math.ceil(math.log10(max(drawn))), low + 1)


def _round_step(top: int) -> int:
    """A step of 1, 2 or 5 times a power of ten that gives at most six labels."""
    power = 10 ** max(0, math.floor(math.log10(top / 5))) if top > 5 else 1
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor * 5 >= top)


def _cosine(power: int) -> str:
    """The cosine whose distance to 1 is ten to this power."""
    return f"{1 - 10.0**power:.{max(0, -power)}f}"
