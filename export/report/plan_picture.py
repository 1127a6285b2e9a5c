"""The kernels of one layer as a drawing: streams side by side, time downwards.

A box is a kernel, in the column of its stream; its stripe has the colour of the type that it
multiplies, or writes. A line goes from the kernel that writes a tensor to the one that reads it.
On the right stands what each reads, its weights, and what it writes, in the colours of their types.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from export.engines.plan import Kernel, PlanTensor
from export.engines.plan_figures import KernelClass, class_of
from export.engines.plan_sizes import Sizes
from export.engines.traffic import factors
from export.report.html import Element, element

WIDTH = 1080
_LANE, _BOX, _TEXTS = 178, 156, 20  # widths of a stream's column and a box; left margin for lines
_LINE, _GAP = 16, 22  # heights of a line of text and between two rows
_COLUMNS = ("reads", "weights", "writes")
_MODULE = re.compile(r"(?:encoder\.layers\.\d+\.)?(?:mixer\.|mlp\.)?([A-Za-z_]\w*)")
_UNNAMED = re.compile(r"[A-Z]\w*\.\d+\Z")  # "Cast.12": a node that belongs to no module
_TITLES = {
    KernelClass.PRODUCT: "product",
    KernelClass.NORM: "sum, LayerNorm",
    KernelClass.CONVERT: "converts a weight",
    KernelClass.MOVE: "layout",
    KernelClass.ONCE: "once a call",
}


@dataclass(frozen=True)
class _Row:
    """A kernel's place: its ``lane`` from the left, ``top`` and ``height`` in the drawing."""

    kernel: Kernel
    lane: int
    top: float
    height: float
    columns: tuple[tuple[tuple[str, str], ...], ...]  # (type, text) of each column's lines

    @property
    def left(self) -> float:
        return _TEXTS + self.lane * _LANE

    @property
    def middle(self) -> float:
        return self.top + self.height / 2

    @property
    def centre(self) -> float:
        return self.left + _BOX / 2


def draw_layer(kernels: Sequence[Kernel], sizes: Sizes) -> Element:
    """The launches of one layer, in their order."""
    streams = sorted({kernel.stream for kernel in kernels})
    rows, top = [], float(_LINE + _GAP)
    for kernel in kernels:
        columns = tuple(
            _lines(tensors, sizes) for tensors in (kernel.inputs, _matrices(kernel), kernel.outputs)
        )
        height = float(max(44, _LINE * max(len(lines) for lines in columns) + 10))
        rows.append(_Row(kernel, streams.index(kernel.stream), top, height, columns))
        top += height + _GAP
    return element(
        "svg",
        *_headings(streams),
        *_connections(rows),
        *(part for row in rows for part in _drawn(row, len(streams))),
        viewBox=f"0 0 {WIDTH} {top:.0f}",
        role="img",
        aria_label="The kernels of one layer",
        width=WIDTH,
        height=top,
        class_="layer",
    )


def title_of(kernel: Kernel) -> str:
    """A kernel in a few words: what it is for."""
    kind = class_of(kernel)
    if kind is KernelClass.MOVE:
        if any("rope" in node.lower() or "Rotary" in node for node in kernel.nodes):
            return "RoPE, layout"
        if "Roun" in kernel.name:
            return "quantise, layout"
        return "layout" if "Tran" in kernel.name or "Move" in kernel.name else "element-wise"
    extra = ", GELU" if kind is KernelClass.PRODUCT and "Erf" in kernel.name else ""
    return _TITLES.get(kind, str(kind)) + extra


def modules_of(kernel: Kernel) -> str:
    """The names of the modules it comes from, shortened: "Wqkv", "norm1"."""
    found: dict[str, None] = {}
    for node in kernel.nodes:
        match = None if _UNNAMED.match(node) else _MODULE.match(node)
        if match:
            found[match[1]] = None
    return ", ".join(found)


def type_class(kind: str) -> str:
    """The style of a type."""
    return f"type-{kind.lower()}"


def _matrices(kernel: Kernel) -> list[PlanTensor]:
    return [c for c in kernel.constants if sum(d > 1 for d in c.shape) > 1]


def _lines(tensors: Iterable[PlanTensor], sizes: Sizes) -> tuple[tuple[str, str], ...]:
    """One line a shape and type: "2 × (tokens × 1024) Half"."""
    counted = Counter((t.type, sizes.described(t)) for t in tensors)
    return tuple(
        (kind, f"{shape} {kind}" if count == 1 else f"{shape} {kind}, {count} of them")
        for (kind, shape), count in counted.items()
    )


def _headings(streams: Sequence[int]) -> list[Element]:
    lanes = [
        element(
            "text",
            f"stream {stream}",
            class_="axis",
            x=_TEXTS + index * _LANE + _BOX / 2,
            y=10,
            text_anchor="middle",
        )
        for index, stream in enumerate(streams)
    ]
    texts = [
        element("text", name, class_="axis", x=x, y=10)
        for name, x in zip(_COLUMNS, _places(len(streams)), strict=True)
    ]
    return lanes + texts


def _places(lanes: int) -> list[float]:
    """Where the columns of texts begin."""
    first = _TEXTS + lanes * _LANE + 4
    step = (WIDTH - first) / len(_COLUMNS)
    return [first + step * index for index in range(len(_COLUMNS))]


def _drawn(row: _Row, lanes: int) -> list[Element]:
    parts = [
        element(
            "rect", class_="kernel", x=row.left, y=row.top, width=_BOX, height=row.height, rx=5
        ),
        element(
            "rect",
            class_=type_class(_colour(row.kernel)),
            x=row.left,
            y=row.top,
            width=5,
            height=row.height,
            rx=2,
        ),
    ]
    words = [title_of(row.kernel), _cut(modules_of(row.kernel))]
    for index, text in enumerate(words if words[1] else words[:1]):
        y = row.middle + (_LINE * index - 8 if words[1] else 0)
        style = "note" if index else "name"
        parts.append(element("text", text, class_=style, x=row.left + 14, y=y))
    for place, lines in zip(_places(lanes), row.columns, strict=True):
        first = row.middle - _LINE * (len(lines) - 1) / 2
        for index, (kind, text) in enumerate(lines):
            y = first + index * _LINE
            parts.append(
                element("rect", class_=type_class(kind), x=place, y=y - 5, width=10, height=10)
            )
            parts.append(element("text", text, x=place + 15, y=y))
    group = element("g", element("title", row.kernel.name), *parts)
    return [group]


def _colour(kernel: Kernel) -> str:
    """The type that it multiplies, or that of its first result."""
    multiplied = factors(kernel)
    if multiplied is not None:
        return multiplied[1].type
    return kernel.outputs[0].type if kernel.outputs else ""


def _cut(text: str, most: int = 22) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _connections(rows: Sequence[_Row]) -> list[Element]:
    """A line for each pair of a kernel that writes and one that reads, behind the boxes."""
    writers: dict[str, int] = {}
    lines = []
    for index, row in enumerate(rows):
        sources = {writers[t.name] for t in row.kernel.inputs if t.name in writers}
        lines += [_connection(rows[source], row, index - source) for source in sorted(sources)]
        for tensor in row.kernel.outputs:
            writers[tensor.name] = index
    return lines


def _connection(start: _Row, end: _Row, apart: int) -> Element:
    below = start.top + start.height
    if start.lane == end.lane and apart > 1:  # around the boxes between them
        bulge = start.left - 8 - min(apart, 6)
        path = (
            f"M {start.left:.0f} {start.middle:.0f} C {bulge:.0f} {start.middle:.0f}, "
            f"{bulge:.0f} {end.middle:.0f}, {end.left:.0f} {end.middle:.0f}"
        )
    else:
        half = (below + end.top) / 2
        path = (
            f"M {start.centre:.0f} {below:.0f} C {start.centre:.0f} {half:.0f}, "
            f"{end.centre:.0f} {half:.0f}, {end.centre:.0f} {end.top:.0f}"
        )
    return element("path", class_="flow", d=path)
