"""``adaptrt inspect --html``: what an engine executes, on one page that opens anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import multimode

from export.engines.gpus import GPUS, Gpu
from export.engines.measured import Times
from export.engines.plan import Plan
from export.engines.plan_figures import (
    PlanFigures,
    bytes_by_class,
    flops_by_types,
    milliseconds_by_class,
    milliseconds_by_limit,
    pair,
)
from export.engines.plan_sizes import Sizes, Workload
from export.engines.predict import (
    EFFICIENCY,
    PREDICTED,
    Prediction,
    TypeUnsupportedError,
    nearest,
    predict,
    usual_calls,
)
from export.engines.traffic import KernelTraffic, traffic
from export.report.charts import Bar, bar_chart
from export.report.html import Content, Element, document, element, table
from export.report.plan_picture import draw_layer, modules_of, title_of, type_class

_STYLES = [Path(__file__).parent / name for name in ("report.css", "plan.css")]
_HALF = 520
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, kw_only=True)
class RuleResult:
    """One of the plan's rules: what it asks for, what was found, whether it holds."""

    rule: str
    found: str
    passed: bool


@dataclass(frozen=True, kw_only=True)
class PlanPage:
    """What the page shows: ``plans`` by the name of the engine (and profile) they are of.

    ``subject`` says what was compiled; ``heads`` are the encoder's. Calls beyond ``max_batch`` or
    ``max_tokens`` are not shown. What was ``measured`` stands in the place of what is predicted.
    """

    subject: str
    plans: Mapping[str, Plan]
    heads: int
    max_batch: int
    max_tokens: int
    rules: Sequence[RuleResult] = ()
    measured: Times = field(default_factory=dict)

    @property
    def loads(self) -> tuple[Workload, ...]:
        """The calls that are shown, within the limits."""
        return usual_calls(self.heads, self.max_batch, self.max_tokens)


def plan_page(page: PlanPage) -> str:
    """The whole page as HTML. Raises :class:`ValueError` where a plan cannot be explained."""
    title = f"What the engine executes: {page.subject}"
    name, plan = next(iter(page.plans.items()))
    load = page.loads[min(1, len(page.loads) - 1)]
    return document(
        title,
        "\n".join(path.read_text(encoding="utf-8") for path in _STYLES),
        element("h1", title),
        _introduction(plan),
        _facts(plan, page.heads),
        element("h2", "One layer, kernel by kernel"),
        *_layer(name, plan, load),
        element("h2", "Where bytes and arithmetic go"),
        *(part for load in page.loads for part in _shares(plan, load)),
        element("h2", "Launches and products of each engine"),
        _engines(page.plans),
        *_rules(page.rules),
        element("h2", "How long a call takes"),
        *_times(page),
    )


def _introduction(plan: Plan) -> Element:
    return element(
        "p",
        "TensorRT turns the model's graph into kernels, small programs that the GPU runs one after "
        "the other. This is what it compiled: which kernels there are, the types of the numbers "
        "they multiply, and how much each of them reads and writes. Kernels, shapes and types are "
        f"the compiler's own words ({plan.builder}). Nothing on this page has run on a GPU unless "
        "it says measured.",
    )


def _facts(plan: Plan, heads: int) -> Element:
    figures = PlanFigures.of(plan)
    fewest = traffic(plan, Workload(batch=1, tokens=1, heads=heads))
    facts = {
        "kernels launched in a call": str(figures.launches),
        "of them in each layer": str(figures.per_layer),
        "streams (queues) they run in": str(figures.streams),
        "matrix products, activation × weight": _counted(figures.products),
        "fused attention kernels": str(figures.attentions),
        "attention adds up in": ", ".join(figures.accumulators) or "–",
        "weights read in a call": _unit(sum(work.constants for work in fewest), "B"),
    }
    items = (element("div", element("span", name), value) for name, value in facts.items())
    return element("div", *items, class_="facts")


def _counted(products: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {types}" for types, count in products.items()) or "none"


def _layer(name: str, plan: Plan, load: Workload) -> list[Element]:
    """A layer from the middle, which has no work of the beginning or the end."""
    layers = [k.layer for k in plan.launches if k.layer is not None]
    if not layers:
        return [element("p", "No kernel says which layer it is of.")]
    counts = {layer: layers.count(layer) for layer in dict.fromkeys(layers)}
    usual = multimode(counts.values())[0]
    chosen = [layer for layer, count in counts.items() if count == usual]
    layer = chosen[len(chosen) // 2]
    kernels = [k for k in plan.launches if k.layer == layer]
    works = [w for w in traffic(plan, load) if w.kernel.layer == layer]
    types = dict.fromkeys(t.type for k in kernels for t in (*k.inputs, *k.constants, *k.outputs))
    return [
        element(
            "p",
            f"Layer {layer} of {name}, which stands for the others. A box is a kernel, in the "
            "column of its stream; time runs downwards, and what stands in two columns may run at "
            "the same time. A line leads from the kernel that writes numbers to the one that reads "
            "them. “tokens” are those of all texts of a call. ",
        ),
        element("p", *_legend(types)),
        element("div", draw_layer(kernels, Sizes.of(plan, load)), class_="wide", tabindex="0"),
        element("h3", f"The same in figures, for {_call(load)}"),
        table(
            ["kernel", "module", "multiplies", "operations", "reads", "weights", "writes"],
            [_kernel_row(work) for work in works],
            numbers=4,
        ),
    ]


def _legend(types: Iterable[str]) -> list[Content]:
    parts: list[Content] = []
    for kind in types:
        parts += [element("span", "■", class_=type_class(kind)), f" {kind}  "]
    return parts


def _kernel_row(work: KernelTraffic) -> list[Content]:
    kernel = work.kernel
    multiplies = "" if work.operands is None else pair(*work.operands)
    return [
        element("span", title_of(kernel), title=kernel.name),
        modules_of(kernel),
        multiplies,
        _unit(work.flops, "FLOP") if work.flops else "",
        _unit(work.read, "B"),
        _unit(work.constants, "B"),
        _unit(work.written, "B"),
    ]


def _shares(plan: Plan, load: Workload) -> list[Element]:
    works = traffic(plan, load)
    moved, done = bytes_by_class(works), flops_by_types(works)
    left = element(
        "div", element("h3", "Bytes read and written"), _bars("Bytes", moved.items(), "B")
    )
    right = element(
        "div",
        element("h3", "Arithmetic, by the types multiplied"),
        _bars("FLOP", done.items(), "FLOP"),
    )
    head = f"{_call(load)}: {_unit(sum(moved.values()), 'B')}, {_unit(sum(done.values()), 'FLOP')}"
    return [element("h3", _capital(head)), element("div", left, right, class_="pair")]


def _bars(title: str, sums: Iterable[tuple[str, float]], unit: str) -> Element:
    """A bar each; a name that ends with a type has its colour."""
    shown = list(sums)
    whole = sum(value for _, value in shown) or 1
    bars = [
        Bar(
            str(name),
            value,
            note=f"{_unit(value, unit)}, {value / whole:.0%}",
            style=f"bar {type_class(name.rpartition('×')[2])}" if "×" in name else "bar",
        )
        for name, value in shown
    ]
    return bar_chart(title, bars, label=190, note=120, width=_HALF)


def _engines(plans: Mapping[str, Plan]) -> Element:
    rows: list[list[Content]] = []
    for name, plan in plans.items():
        figures = PlanFigures.of(plan)
        rows.append(
            [
                name,
                _counted(figures.products),
                f"{figures.attentions}, in {', '.join(figures.accumulators) or '–'}",
                str(figures.launches),
                str(figures.per_layer),
                str(figures.streams),
            ]
        )
    head = ["engine", "matrix products", "fused attention", "launches", "in a layer", "streams"]
    return table(head, rows, numbers=3)


def _rules(rules: Sequence[RuleResult]) -> list[Element]:
    if not rules:
        return []
    rows: list[list[Content]] = [
        [
            element("code", result.rule),
            result.found,
            element(
                "span",
                "✓ holds" if result.passed else "✗ broken",
                class_="good" if result.passed else "bad",
            ),
        ]
        for result in rules
    ]
    return [
        element("h2", "The plan's rules"),
        element("p", "What a build checks of the plan before it publishes a bundle."),
        table(["rule", "found", "outcome"], rows),
    ]


def _times(page: PlanPage) -> list[Element]:
    rows: list[list[Content]] = []
    for gpu in GPUS.values():
        name, plan = nearest(gpu, page.plans)
        # A name lists every engine that has this plan, and so their architectures.
        place = gpu.sm if gpu.sm in name else f"{gpu.sm} (as {plan.gpu or name})"
        cells = [
            _measured(page, gpu.name, load, _predicted(plan, load, gpu)) for load in page.loads
        ]
        rows.append([gpu.name, place, *cells])
    for other in dict.fromkeys(name for name, _, _ in page.measured if name not in GPUS):
        cells = [_measured(page, other, load, "–") for load in page.loads]
        rows.append([other, "", *cells])
    heads = [_call(load) for load in page.loads]
    return [
        element(
            "p",
            element("b", _capital(PREDICTED)),
            f": the longer of arithmetic and memory traffic of each kernel, and a launch. Kernels "
            f"are taken to reach {EFFICIENCY.compute:.0%} of a data sheet's arithmetic and "
            f"{EFFICIENCY.memory:.0%} of its bandwidth, and a launch to cost "
            f"{EFFICIENCY.launch_cycles} clock cycles: {EFFICIENCY.source} "
            f"(version {EFFICIENCY.version}). For a GPU that was not in the fit, times were "
            "typically within a factor of 1.2 and at worst 1.6. In brackets, what takes most of "
            "the time. “As” names the architecture whose plan was used where none is for that GPU.",
        ),
        table(["GPU", "architecture", *heads], rows, numbers=len(heads)),
        *_times_by_class(page),
    ]


def _measured(page: PlanPage, gpu: str, load: Workload, otherwise: str) -> Content:
    time = page.measured.get((gpu, load.batch, load.tokens))
    return otherwise if time is None else element("b", f"{time:.3g} ms measured")


def _predicted(plan: Plan, load: Workload, gpu: Gpu) -> str:
    try:
        prediction = predict(plan, load, gpu)
    except TypeUnsupportedError:
        return "–"
    limits = milliseconds_by_limit(prediction.kernels)
    return f"{prediction.milliseconds:.3g} ms ({max(limits, key=lambda name: limits[name])})"


def _times_by_class(page: PlanPage) -> list[Element]:
    """Where the time goes on the first GPU that each plan's own architecture names."""
    name, plan = next(iter(page.plans.items()))
    own = [gpu for gpu in GPUS.values() if gpu.sm == plan.gpu] or list(GPUS.values())
    parts = []
    for load in page.loads:
        found = _prediction(plan, load, own[0])
        if found is not None:
            bars = _bars("Time", milliseconds_by_class(found.kernels).items(), "ms")
            parts.append(element("div", element("h3", _capital(_call(load))), bars))
    if not parts:
        return []
    return [
        element("h3", f"Where the time goes: {name} on {own[0].name}, {PREDICTED}"),
        element("div", *parts, class_="pair"),
    ]


def _prediction(plan: Plan, load: Workload, gpu: Gpu) -> Prediction | None:
    try:
        return predict(plan, load, gpu)
    except TypeUnsupportedError:
        return None


def _call(load: Workload) -> str:
    texts = "one text" if load.batch == 1 else f"{load.batch} texts"
    return f"{texts} of {load.tokens} tokens"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _unit(value: float, unit: str) -> str:
    """A figure with three digits: "1.23 GB"; milliseconds as they are."""
    if unit == "ms":
        return f"{value:.3g} ms"
    for size, letter in _UNITS:
        if value >= size:
            return f"{value / size:.3g} {letter}{unit}"
    return f"{value:.0f} {unit}"
