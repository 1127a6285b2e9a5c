"""A heat map as inline SVG: a row per layer, a column per block or length, numbers in the cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from export.report.html import Element, element

_LEVELS = 10
# Shades from bad over neutral to good, and from little to much; whose numbers need the other ink.
DIVERGING, SEQUENTIAL = "d", "s"
_DARK = {DIVERGING: frozenset({0, 1, 7, 8, 9}), SEQUENTIAL: frozenset({5, 6, 7, 8, 9})}
_ROW, _TOP, _LEFT, _KEY = 24, 26, 92, 40
_SHADE, _LETTER = 16, 6.3  # of the key: a shade's width, a letter's


@dataclass(frozen=True, kw_only=True)
class Square:
    """One cell: its number as ``text``, how good it is, 0 worst to 1 best, and a hover text."""

    text: str
    good: float
    title: str
    departs: bool = False


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """``squares`` row by row. ``key`` says what the ends of the shades mean; None: no key."""

    title: str
    columns: Sequence[str]
    rows: Sequence[str]
    squares: Sequence[Sequence[Square]]
    key: tuple[str, str] | None
    shades: str = SEQUENTIAL
    width: int = 72


def draw(heat: HeatMap) -> Element:
    """The picture, as wide as its columns; it scrolls where the page is narrower."""
    grid = _LEFT + heat.width * len(heat.columns) + 8
    width = max(grid, _key_width(heat.key) if heat.key else 0)
    height = _TOP + _ROW * len(heat.rows) + (_KEY if heat.key else 6)
    parts = [
        element(
            "text",
            name,
            class_="title",
            x=_LEFT + heat.width * (index + 0.5),
            y=_TOP / 2,
            text_anchor="middle",
        )
        for index, name in enumerate(heat.columns)
    ]
    placed = []
    for index, (name, squares) in enumerate(zip(heat.rows, heat.squares, strict=True)):
        top = _TOP + _ROW * index
        parts.append(element("text", name, x=_LEFT - 8, y=top + _ROW / 2, text_anchor="end"))
        placed += [
            (square.departs, _square(square, heat, _LEFT + heat.width * column, top))
            for column, square in enumerate(squares)
        ]
    # What departs comes last, so that no neighbour covers its frame.
    parts += [shape for _, shape in sorted(placed, key=lambda pair: pair[0])]
    if heat.key:
        parts += _key(heat.key, heat.shades, _TOP + _ROW * len(heat.rows) + 12)
    picture = element(
        "svg",
        *parts,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=heat.title,
        width=width,
        height=height,
    )
    return element("div", picture, class_="map")


def level(good: float) -> int:
    """0 for the worst, 9 for the best."""
    if not math.isfinite(good):
        return 0
    return min(max(int(good * _LEVELS), 0), _LEVELS - 1)


def _square(square: Square, heat: HeatMap, x: float, y: float) -> Element:
    shade = level(square.good)
    frame = "departs" if square.departs else ""
    return element(
        "g",
        element("title", square.title),
        element(
            "rect",
            class_=f"{heat.shades}{shade} {frame}".strip(),
            x=x,
            y=y,
            width=heat.width,
            height=_ROW,
        ),
        element(
            "text",
            square.text,
            class_="on-dark" if shade in _DARK[heat.shades] else "on-light",
            x=x + heat.width / 2,
            y=y + _ROW / 2,
            text_anchor="middle",
        ),
    )


def _key_width(names: tuple[str, str]) -> float:
    return _LEFT + _LETTER * sum(map(len, names)) + _SHADE * _LEVELS + 24


def _key(names: tuple[str, str], shades: str, y: float) -> list[Element]:
    """The shades from worst to best, with words at both ends."""
    size, left = _SHADE, _LEFT
    low, high = names
    start = left + _LETTER * len(low) + 8
    parts = [element("text", low, class_="note", x=left, y=y + 7)]
    parts += [
        element("rect", class_=f"{shades}{n}", x=start + size * n, y=y, width=size, height=14)
        for n in range(_LEVELS)
    ]
    parts.append(element("text", high, class_="note", x=start + size * _LEVELS + 8, y=y + 7))
    return parts
