"""``adaptrt inspect``: what a bundle's engines execute, as a table, as JSON or as a page.

Everything is read from ``plan.json`` and the manifest: neither TensorRT nor a GPU is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from export.engines.measured import GpuCheck, Times
from export.engines.plan import Kernel, Plan
from export.engines.plan_figures import (
    PlanFigures,
    bytes_by_class,
    class_of,
    flops_by_types,
)
from export.engines.plan_file import bundle_plans
from export.engines.plan_rules import RULES
from export.engines.plan_sizes import Workload
from export.engines.predict import EFFICIENCY, PREDICTED
from export.engines.predicted_times import times_on_gpus
from export.engines.traffic import KernelTraffic, factors, traffic
from export.report.comparison import (
    Comparison,
    compare,
    comparison_json,
    comparison_lines,
)
from export.report.plan_page import PlanPage, RuleResult, plan_page
from runtimes.errors import InputError
from runtimes.manifest import Manifest, read_manifest

_WIDTH = 44  # of a kernel's name


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A bundle and the plans that are shown, by their engine and profile; ``load`` is one call.

    ``against`` is the comparison with another bundle, where one was named.
    """

    bundle: Path
    manifest: Manifest
    plans: Mapping[str, Plan]
    load: Workload
    against: Comparison | None = None


def inspect(
    bundle: Path, gpu: str | None, batch: int, tokens: int, against: Path | None = None
) -> Inspection:
    """The plans of a bundle's engines, of one architecture or of those that differ.

    Raises :class:`InputError` for a bundle without plans, an architecture that it has no engine
    for, and a call that its engines do not take.
    """
    manifest = read_manifest(bundle, files=False)
    for name, value, most in (
        ("BATCH", batch, manifest.max_batch),
        ("TOKENS", tokens, manifest.max_tokens),
    ):
        if not 1 <= value <= most:
            raise InputError(f"{name}: got {value}, expected 1 to {most}, the bundle's")
    found = bundle_plans(bundle, manifest)
    if not found:
        raise InputError(
            f"{bundle}: has no plan.json, which bundles with engines have since schema 1.3; build "
            "it again (make engine TARGET=tensorrt_rtx)"
        )
    gpus = {entry.path: str(entry.gpu) for entry in manifest.artifacts if entry.path in found}
    if gpu is not None and gpu not in gpus.values():
        raise InputError(f"GPU: got {gpu}, expected one of {', '.join(gpus.values())}")
    chosen = {path: plans for path, plans in found.items() if gpu in (None, gpus[path])}
    load = Workload(batch=batch, tokens=tokens, heads=manifest.architecture.heads)
    return Inspection(
        bundle=bundle,
        manifest=manifest,
        plans=_different(chosen, manifest),
        load=load,
        against=None if against is None else compare(bundle, manifest, against),
    )


def _different(found: Mapping[str, tuple[Plan, ...]], manifest: Manifest) -> dict[str, Plan]:
    """Each plan that no other engine has; its name says every engine and profile that has it."""
    names: dict[object, list[str]] = {}
    plans: dict[object, Plan] = {}
    for path, profiles in found.items():
        for index, plan in enumerate(profiles):
            profile = f", {manifest.profiles[index].name}" if len(profiles) > 1 else ""
            alike = tuple(_kept(kernel) for kernel in plan.kernels)
            names.setdefault(alike, []).append(path + profile)
            plans.setdefault(alike, plan)
    return {" and ".join(names[alike]): plan for alike, plan in plans.items()}


def _kept(kernel: Kernel) -> tuple[object, ...]:
    """What makes two kernels the same: names and tactics count their own architecture."""
    tensors = (*kernel.inputs, *kernel.constants, *kernel.outputs)
    shapes = tuple((tensor.shape, tensor.type) for tensor in tensors)
    return kernel.kind, shapes, kernel.stream, kernel.layer, kernel.accumulator, kernel.alpha


def text_lines(inspection: Inspection) -> Iterator[str]:
    """The readable table: of each plan its figures, one layer, what differs, once a call."""
    manifest, load = inspection.manifest, inspection.load
    yield f"{inspection.bundle}: {manifest.precision.upper()}, {manifest.adapter}, {manifest.task}"
    for name, plan in inspection.plans.items():
        f, works = PlanFigures.of(plan), traffic(plan, load)
        moved, computed = sum(work.bytes for work in works), sum(work.flops for work in works)
        yield f"{name} ({plan.builder})"
        yield f"  {f.launches} launches, {f.per_layer} a layer, {f.streams} streams"
        yield f"  products: {_counts(f.products)}"
        sums = ", ".join(f.accumulators) or "no fused kernel"
        yield f"  fused attention: {f.attentions}, sums in {sums}"
        yield f"  rules of the plan: {_waived(manifest)}"
        yield (
            f"  {load.batch} x {load.tokens} tokens: {_mega(moved)} MB moved, "
            f"{_giga(computed)} GFLOP"
        )
        for kind, size in bytes_by_class(works).items():
            yield f"    {kind:<36} {_mega(size):>10} MB"
        for types, flops in flops_by_types(works).items():
            yield f"    {types:<36} {_giga(flops):>10} GFLOP"
        yield f"  {PREDICTED}: {EFFICIENCY.source} ({EFFICIENCY.version})"
        for gpu, milliseconds in times_on_gpus(name, inspection.plans, load).items():
            yield f"    {gpu:<36} {milliseconds:>10.3g} ms"
        yield from _kernels(works)
    if inspection.against is not None:
        yield from comparison_lines(inspection.against)


def _kernels(works: tuple[KernelTraffic, ...]) -> Iterator[str]:
    layers: dict[int, list[KernelTraffic]] = {}
    for work in works:
        if work.kernel.layer is not None:
            layers.setdefault(work.kernel.layer, []).append(work)
    forms = {layer: tuple(class_of(w.kernel) for w in own) for layer, own in layers.items()}
    typical = Counter(forms.values()).most_common(1)[0][0] if forms else ()
    alike = [layer for layer, form in forms.items() if form == typical]
    if alike:
        same = ", ".join(map(str, alike[1:]))
        yield f"  layer {alike[0]}" + (f" (so are {same})" if same else "")
        yield from map(_row, layers[alike[0]])
    known = {_form(work) for work in layers[alike[0]]} if alike else set()
    for layer in sorted(set(layers) - set(alike)):
        yield f"  layer {layer} differs: {len(layers[layer])} launches, among them"
        yield from (_row(work) for work in layers[layer] if _form(work) not in known)
    yield "  once a call"
    yield from (_row(work) for work in works if work.kernel.layer is None)


def _form(work: KernelTraffic) -> tuple[str, str]:
    return class_of(work.kernel), _operands(work.kernel)


def _row(work: KernelTraffic) -> str:
    kernel = work.kernel
    name = kernel.name if len(kernel.name) <= _WIDTH else f"{kernel.name[: _WIDTH - 1]}…"
    flops = f"{_giga(work.flops):>9} GFLOP" if work.flops else ""
    return (
        f"    {class_of(kernel):<30} {name:<{_WIDTH}} {_mega(work.bytes):>9} MB {flops:<15} "
        f"{_operands(kernel)}"
    ).rstrip()


def _operands(kernel: Kernel) -> str:
    """The main operand, the weight, and the result: "Half [?, 256] × Half [256, 768] → …"."""
    multiplied = factors(kernel) if kernel.is_product else None
    into = " × ".join(map(str, multiplied or kernel.inputs[:1])) or "-"
    out = f" → {kernel.outputs[0]}" if kernel.outputs else ""
    return into + out


def _counts(products: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {types}" for types, count in products.items())


def _waived(manifest: Manifest) -> str:
    if manifest.plan_waived:
        return f"breaks {', '.join(manifest.plan_waived)}, by leave of ALLOW_PLAN"
    return "kept"


def _mega(value: float) -> str:
    return f"{value / 1e6:.2f}"


def _giga(value: float) -> str:
    return f"{value / 1e9:.2f}"


def as_json(inspection: Inspection) -> dict[str, object]:
    """The same as plain JSON types; bytes and FLOP are of the call that ``batch, tokens`` say."""
    manifest, load = inspection.manifest, inspection.load
    return {
        "bundle": str(inspection.bundle),
        "precision": manifest.precision,
        "adapter": manifest.adapter,
        "batch": load.batch,
        "tokens": load.tokens,
        "plan_waived": list(manifest.plan_waived),
        "engines": [_engine(name, inspection.plans, load) for name in inspection.plans],
        "against": None if inspection.against is None else comparison_json(inspection.against),
    }


def _engine(name: str, plans: Mapping[str, Plan], load: Workload) -> dict[str, object]:
    plan = plans[name]
    figures, works = PlanFigures.of(plan), traffic(plan, load)
    return {
        "engine": name,
        "builder": plan.builder,
        "launches": figures.launches,
        "launches_per_layer": figures.per_layer,
        "streams": figures.streams,
        "products": dict(figures.products),
        "fused_attention": figures.attentions,
        "attention_sums": list(figures.accumulators),
        "bytes": sum(work.bytes for work in works),
        "flops": dict(flops_by_types(works)),
        "predicted": {
            "what": PREDICTED,
            "source": EFFICIENCY.source,
            "version": EFFICIENCY.version,
            "milliseconds": dict(times_on_gpus(name, plans, load)),
        },
        "kernels": [
            {
                "name": work.kernel.name,
                "class": class_of(work.kernel),
                "layer": work.kernel.layer,
                "stream": work.kernel.stream,
                "nodes": list(work.kernel.nodes),
                "bytes": work.bytes,
                "flops": work.flops,
                "operands": list(work.operands) if work.operands else None,
            }
            for work in works
        ],
    }


def as_page(inspection: Inspection, measured: Path | None) -> str:
    """The same as an HTML page, with predicted times; those of ``measured`` in their place.

    ``measured`` is a ``gpu-check.json`` that timed a model of this one's size.
    """
    manifest = inspection.manifest
    times = _measured(measured, manifest) if measured is not None else {}
    return plan_page(
        PlanPage(
            subject=f"{manifest.model.name}, {manifest.task}, {manifest.precision.upper()}",
            plans=inspection.plans,
            heads=manifest.architecture.heads,
            max_batch=manifest.max_batch,
            max_tokens=manifest.max_tokens,
            rules=[
                RuleResult(
                    rule=f"{rule}: {row.expected}",
                    found="broken, by leave" if rule in manifest.plan_waived else "kept",
                    passed=rule not in manifest.plan_waived,
                )
                for rule, row in RULES.items()
            ],
            measured=times,
        )
    )


# Layers and width of the models that gpu-check times, by its word for them.
_TIMED = {"sample": (6, 256), "full": (24, 1024)}


def _measured(path: Path, manifest: Manifest) -> Times:
    check = GpuCheck.read(path)
    own = (manifest.architecture.layers, manifest.architecture.hidden)
    if (timed := _TIMED.get(check.timed_size)) != own:
        raise InputError(
            f"{path}: timed_size: got {check.timed_size} (layers and width {timed}), expected a "
            f"model of this bundle's {own}"
        )
    return check.times(manifest.precision)
