"""``adaptrt drift --html``: where an engine departs, as heat maps on a page that opens anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import export.report
from export.drift.blocks import LAYER, Block, Place
from export.drift.drift import Drift
from export.drift.figures import EQUAL
from export.drift.heat_map import DIVERGING, SEQUENTIAL, HeatMap, Square, draw
from export.drift.measure import MARGIN, Cell
from export.drift.table import decibel, details, how, nearest, others, subject, verdict
from export.report.html import Content, Element, document, element, table

_STYLES = (
    Path(export.report.__file__).parent / "report.css",
    Path(__file__).parent / "drift.css",
)
_SPAN = 20.0  # dB beyond rounding, both ways, that the shades cover
_LAYER = tuple(LAYER)
_Shade = Callable[[Cell], tuple[str, float]]


def drift_page(drift: Drift) -> str:
    """The whole page as HTML."""
    title, longest = f"Where {drift.bundle} departs from FP32", drift.lengths[-1]
    own = _Look(shade=_local, key=_BEYOND, length=None, shades=DIVERGING)
    snr = _Look(shade=_snr(drift), key=_RANGE, length=longest)
    cosine = _Look(shade=_cosine(drift), key=_COSINES, length=longest)
    return document(
        title,
        "\n".join(path.read_text(encoding="utf-8") for path in _STYLES),
        element("h1", title),
        element("p", f"{subject(drift)}; {how(drift)}."),
        _verdict(drift),
        _facts(drift),
        element("h2", "Each block on its own"),
        element(
            "p",
            "Every block of the engine's graph was given the reference's own numbers, so an error "
            "shows where it is made and nowhere else. A square is the signal to noise of the "
            "block's output in dB, the least of all lengths; 20 dB more is a tenth of the error. "
            "Its shade says how that compares with what the precision's rounding alone would "
            f"leave. A red frame: more than {MARGIN:.0f} dB worse than that.",
        ),
        *_maps("Each block on its own", drift, own),
        element("h2", "As errors add up"),
        element(
            "p",
            f"Both sides ran on their own, at {longest} tokens: the engine's numbers go "
            "through all blocks before. Signal to noise in dB, then 1 − cosine.",
        ),
        element("h3", "Signal to noise, layer by block"),
        *_maps("Signal to noise", drift, snr),
        element("h3", "1 − cosine, layer by block"),
        *_maps("1 − cosine", drift, cosine),
        element("h2", "By length of the text"),
        element("p", "What each layer hands on, both sides run on their own, and the vectors."),
        element(
            "div",
            element(
                "div",
                element("h3", "Signal to noise, layer by tokens"),
                draw(_lengths("Signal to noise by length", drift, snr)),
            ),
            element(
                "div",
                element("h3", "1 − cosine, layer by tokens"),
                draw(_lengths("1 − cosine by length", drift, cosine)),
            ),
            class_="pair",
        ),
        *_departing(drift),
    )


_BEYOND = ("20 dB worse than rounding", "20 dB better")
_RANGE = ("the least on this page", "the most")
_COSINES = ("the worst on this page", "the best")
_OUTSIDE = (Block.LOOKUP, Block.EMBEDDING_NORM, Block.POOLING)
_WIDTH = 105  # of a square


def _verdict(drift: Drift) -> Element:
    lines = [element("p", element("strong", _sentence(verdict(drift))))]
    if drift.first is None:
        cell = nearest(drift)
        lines.append(
            element(
                "p",
                f"Nearest to it is {cell.place} at {cell.length} tokens: {decibel(cell.local.snr)} "
                f"dB, where rounding alone leaves {decibel(cell.expected)} dB.",
                class_="soft",
            )
        )
        return element("div", *lines, class_="verdict")
    lines += [element("p", _sentence(line)) for line in details(drift.first)]
    lines.append(element("p", _sentence(others(drift)), class_="soft"))
    return element("div", *lines, class_="verdict departs")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _facts(drift: Drift) -> Element:
    manifest = drift.manifest
    last = drift.cell(Place(Block.POOLING), drift.lengths[-1])
    facts = {
        "precision": str(manifest.precision),
        "built for": str(manifest.target.name),
        "layers": str(manifest.architecture.layers),
        "blocks compared": str(len(drift.cells) // len(drift.lengths)),
        "blocks that depart": str(len(drift.departing)),
        f"vectors at {last.length} tokens": f"{decibel(last.accumulated.snr)} dB",
        "their 1 − cosine": f"{last.accumulated.error:.1e}",
    }
    items = (element("div", element("span", name), value) for name, value in facts.items())
    return element("div", *items, class_="facts")


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What the squares of a map say: a block's figure at ``length``, or at its worst length."""

    shade: _Shade
    key: tuple[str, str]
    length: int | None
    shades: str = SEQUENTIAL

    def square(self, drift: Drift, place: Place) -> Square:
        """The square of a block; framed in red where its worst length is shown and it departs."""
        length = self.length
        cells = [c for c in drift.cells if c.place == place and length in (None, c.length)]
        worst = max(cells, key=lambda cell: (cell.departs, cell.excess))
        text, good = self.shade(worst)
        return Square(
            text=text, good=good, title=_hover(worst), departs=length is None and worst.departs
        )


def _maps(title: str, drift: Drift, look: _Look) -> Iterator[Element]:
    """What stands outside the layers, then layer by block."""
    yield draw(
        HeatMap(
            title=f"{title}, outside the layers",
            columns=[str(block) for block in _OUTSIDE],
            rows=["outside"],
            squares=[[look.square(drift, Place(block)) for block in _OUTSIDE]],
            key=None,
            shades=look.shades,
            width=_WIDTH,
        )
    )
    layers = range(drift.manifest.architecture.layers)
    yield draw(
        HeatMap(
            title=f"{title}, layer by block",
            columns=[str(block) for block in _LAYER],
            rows=[f"layer {layer}" for layer in layers],
            squares=[[look.square(drift, Place(b, layer)) for b in _LAYER] for layer in layers],
            key=look.key,
            shades=look.shades,
            width=_WIDTH,
        )
    )


def _lengths(title: str, drift: Drift, look: _Look) -> HeatMap:
    layers = range(drift.manifest.architecture.layers)
    places = [
        Place(Block.EMBEDDING_NORM),
        *(Place(Block.NORM2, layer) for layer in layers),
        Place(Block.POOLING),
    ]
    looks = [replace(look, length=length) for length in drift.lengths]
    squares = [[each.square(drift, place) for each in looks] for place in places]
    return HeatMap(
        title=title,
        columns=[str(length) for length in drift.lengths],
        rows=["embeddings", *(f"layer {layer}" for layer in layers), "vectors"],
        squares=squares,
        key=look.key,
    )


def _local(cell: Cell) -> tuple[str, float]:
    """Rounding alone is the middle; a block that departs is never in the better half."""
    return decibel(cell.local.snr), 0.5 - cell.excess / (2 * _SPAN)


def _snr(drift: Drift) -> _Shade:
    """From the least to the most of all that were accumulated, equal ones left out."""
    found = [c.accumulated.snr for c in drift.cells if abs(c.accumulated.snr) < 200]
    low, high = (min(found), max(found)) if found else (0.0, 1.0)

    def shade(cell: Cell) -> tuple[str, float]:
        snr = cell.accumulated.snr
        return decibel(snr), (snr - low) / max(high - low, 1.0)

    return shade


def _cosine(drift: Drift) -> _Shade:
    """From the worst to the best of all, in decades."""
    found = [error for c in drift.cells if (error := c.accumulated.error) >= EQUAL]
    low, high = (-math.log10(max(found)), -math.log10(min(found))) if found else (0.0, 1.0)

    def shade(cell: Cell) -> tuple[str, float]:
        error = cell.accumulated.error
        if error < EQUAL:
            return "0", 1.0
        return f"{error:.1e}", (-math.log10(error) - low) / max(high - low, 1.0)

    return shade


def _hover(cell: Cell) -> str:
    return (
        f"{cell.place}, {cell.length} tokens\n"
        f"given the reference's inputs: {decibel(cell.local.snr)} dB, 1 − cosine "
        f"{cell.local.error:.1e}\n"
        f"rounding alone leaves: {decibel(cell.expected)} dB\n"
        f"run on its own: {decibel(cell.accumulated.snr)} dB, 1 − cosine "
        f"{cell.accumulated.error:.1e}"
    )


def _departing(drift: Drift) -> Iterator[Element]:
    if not drift.departing:
        return
    rows: list[Sequence[Content]] = [
        (
            str(cell.place),
            str(cell.length),
            decibel(cell.local.snr),
            decibel(cell.expected),
            f"{cell.local.error:.1e}",
        )
        for place in drift.departing
        for cell in drift.cells
        if cell.place == place and cell.departs
    ]
    yield element("h2", "What departs")
    yield table(["block", "tokens", "dB", "rounding alone", "1 − cosine"], rows, numbers=4)
