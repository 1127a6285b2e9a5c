"""What ``adaptrt drift`` prints: where the first departure is, and a line per layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from export.drift.blocks import Block, Place
from export.drift.drift import Departure, Drift
from export.drift.figures import MOST, Agreement
from export.drift.measure import MARGIN, Cell
from runtimes.typed_json import JsonObject

SCHEMA = 1
_LISTED = 4  # further blocks that depart, by name
_SHORT = {Block.ATTENTION: "attn", Block.OUT: "out"}


def decibel(value: float) -> str:
    """A signal to noise as people read it."""
    return "equal" if value >= MOST else "lost" if value <= -MOST else f"{value:.1f}"


def subject(drift: Drift) -> str:
    """What was compared, in one line."""
    lengths = ", ".join(map(str, drift.lengths))
    return (
        f"{drift.bundle}: {drift.graph} beside {drift.manifest.model.name} in FP32, task "
        f"{drift.task}, texts of {lengths} tokens"
    )


def how(drift: Drift) -> str:
    """How the graph was computed."""
    return f"computed on a CPU by PyTorch, operator by operator, with {drift.numerics}"


def verdict(drift: Drift) -> str:
    """Where it departs first, or that it does not."""
    if drift.first is None:
        return "no block departs by more than its precision's rounding"
    return f"first departure: {drift.first.cell.place}"


def details(first: Departure) -> Iterator[str]:
    """The figures of the first departure."""
    cell, finding = first.cell, first.finding
    yield f"likely cause: {finding.cause} ({finding.figures})"
    yield (
        f"at {cell.length} tokens, given the reference's inputs: {decibel(cell.local.snr)} dB, "
        f"1 − cosine {cell.local.error:.1e}; rounding alone leaves {decibel(cell.expected)} dB"
    )
    if finding.share > 0 and not cell.below_noise:
        yield f"the cause explains {finding.share:.0%} of what rounding does not"


def others(drift: Drift) -> str:
    """Further blocks that depart on their own."""
    rest = [
        str(place)
        for place in drift.departing
        if drift.first is None or place != drift.first.cell.place
    ]
    if not rest:
        return "every other block, given the reference's inputs, is within rounding"
    more = f" and {len(rest) - _LISTED} more" if len(rest) > _LISTED else ""
    return f"{len(rest)} more depart on their own: {'; '.join(rest[:_LISTED])}{more}"


def nearest(drift: Drift) -> Cell:
    """The block that is closest to what rounding explains, or beyond it."""
    return max(drift.cells, key=lambda cell: cell.excess)


def text_lines(drift: Drift) -> Iterator[str]:
    """All of it, for a terminal."""
    yield subject(drift)
    yield f"  {how(drift)}"
    yield verdict(drift)
    if drift.first is not None:
        yield from (f"  {line}" for line in details(drift.first))
        yield f"  {others(drift)}"
    else:
        cell = nearest(drift)
        yield (
            f"  nearest to it: {cell.place} at {cell.length} tokens, {decibel(cell.local.snr)} dB "
            f"where rounding alone leaves {decibel(cell.expected)} dB (limit {MARGIN:.0f} dB below)"
        )
    yield ""
    yield (
        "signal to noise in dB, given the reference's inputs (least of all lengths; ! departs), "
        f"and run on its own at {drift.lengths[-1]} tokens"
    )
    yield from _rows(drift)


def _rows(drift: Drift) -> Iterator[str]:
    blocks = [block for block in Block if block not in _OUTSIDE]
    head = ["layer", *(_SHORT.get(block, block.value) for block in blocks), "on its own"]
    rows = [head]
    for layer in range(drift.manifest.architecture.layers):
        places = [Place(block, layer) for block in blocks]
        end = drift.cell(Place(Block.NORM2, layer), drift.lengths[-1])
        rows.append(
            [str(layer), *(_local(drift, place) for place in places), decibel(end.accumulated.snr)]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    for block in _OUTSIDE:
        end = drift.cell(Place(block), drift.lengths[-1])
        yield f"{block}: {_local(drift, Place(block))}, on its own {decibel(end.accumulated.snr)}"


_OUTSIDE = (Block.LOOKUP, Block.EMBEDDING_NORM, Block.POOLING)


def _local(drift: Drift, place: Place) -> str:
    cells = [drift.cell(place, length) for length in drift.lengths]
    worst = min(cells, key=lambda cell: cell.local.snr)
    return decibel(worst.local.snr) + ("!" if any(cell.departs for cell in cells) else "")


def as_json(drift: Drift) -> JsonObject:
    """Every figure, in plain JSON types."""
    manifest = drift.manifest
    return {
        "schema": SCHEMA,
        "bundle": drift.bundle,
        "model": manifest.model.name,
        "task": drift.task,
        "precision": str(manifest.precision),
        "embeddings": str(manifest.embeddings),
        "target": str(manifest.target.name),
        "graph": drift.graph,
        "numerics": drift.numerics,
        "lengths": list(drift.lengths),
        "layers": manifest.architecture.layers,
        "margin": MARGIN,
        "first": None if drift.first is None else _departure(drift.first),
        "departing": [_place(place) for place in drift.departing],
        "blocks": [_cell(cell) for cell in drift.cells],
    }


def _place(place: Place) -> dict[str, object]:
    return {"layer": place.layer, "block": str(place.block)}


def _cell(cell: Cell) -> dict[str, object]:
    return {
        **_place(cell.place),
        "length": cell.length,
        "local": _rounded(cell.local),
        "accumulated": _rounded(cell.accumulated),
        "expected": round(cell.expected, 2),
        "departs": cell.departs,
    }


def _rounded(found: Agreement) -> dict[str, float]:
    return {"snr": round(found.snr, 2), "cosine": round(found.cosine, 10)}


def _departure(first: Departure) -> dict[str, object]:
    return {**_cell(first.cell), "below_noise": first.cell.below_noise, **asdict(first.finding)}
