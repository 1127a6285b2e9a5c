"""``adaptrt drift``: a bundle's typed graph beside its checkpoint in FP32, block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from export.bundle.staging import check_hashes
from export.console.progress import progress_bar, stage
from export.drift.blocks import Place
from export.drift.causes import Finding
from export.drift.graph import BlockGraph
from export.drift.measure import Call, Cell, Comparison, Subject, compare
from export.drift.reference import ReferenceNetwork
from export.drift.spec import DriftSpec
from export.drift.texts import LENGTHS, batches, graph_inputs
from export.emulation.facts import numerics_of
from export.engines.plan import Plan
from export.engines.plan_file import bundle_plans
from export.evaluation.checkpoint import NO_REFERENCE, Reference, open_reference
from export.evaluation.contenders import Contender, check_model, open_contenders
from export.gate.reference import reference_model
from runtimes.choices import BASE_TASK, GraphKind
from runtimes.errors import InputError, shown
from runtimes.manifest import Manifest
from runtimes.text.tokenizer_file import load_tokenizer

AS_BUILT, EMULATED = "the graph's own arithmetic", "emulated engine"


@dataclass(frozen=True, kw_only=True)
class Departure:
    """The first block that departs by more than rounding, at the length where most."""

    cell: Cell
    finding: Finding


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What came out. ``cells`` by length, in the network's order within each.

    ``graph`` is the file that was computed, ``numerics`` how: as it says, or as its engine's plan
    departs from it.
    """

    bundle: str
    manifest: Manifest
    task: str
    graph: str
    numerics: str
    lengths: tuple[int, ...]
    cells: tuple[Cell, ...]
    first: Departure | None

    @property
    def departing(self) -> tuple[Place, ...]:
        """Every block that departs at some length, in the network's order."""
        order = [cell.place for cell in self.cells if cell.length == self.lengths[0]]
        bad = {cell.place for cell in self.cells if cell.departs}
        return tuple(place for place in order if place in bad)

    def cell(self, place: Place, length: int) -> Cell:
        """One of the cells."""
        return next(c for c in self.cells if c.place == place and c.length == length)


def measure_drift(spec: DriftSpec) -> Drift:
    """Run both sides on every length and compare each block.

    Raises :class:`InputError` for what cannot be compared, :class:`GateError` for a bundle whose
    files are not as built.
    """
    contenders = open_contenders((spec.bundle,))
    manifest = contenders[0].manifest
    task = _task(spec, manifest)
    if all(entry.kind != GraphKind.PORTABLE for entry in manifest.artifacts):
        raise InputError(
            f"{spec.bundle}: holds no {GraphKind.PORTABLE!r} graph, which drift reads; a bundle "
            "with INTERFACE=official has none: build one with INTERFACE=sentence"
        )
    tokenizer = load_tokenizer(spec.bundle, manifest)
    lengths = spec.lengths or tuple(n for n in LENGTHS if n <= manifest.max_tokens)
    texts = batches(tokenizer, manifest.prefixes[task], spec.texts, lengths)
    reference = _reference(spec, contenders, task)
    check_hashes(spec.bundle)
    kind, plan = _graph(spec.bundle, manifest)
    path = manifest.artifact(kind).path
    calls = [
        Call(length=length, tokens=tokens, inputs=graph_inputs(manifest, tokens, task))
        for length, tokens in texts.items()
    ]
    numerics = None if plan is None else numerics_of(plan)
    with stage("graph"):
        opened = BlockGraph(spec.bundle / path, plan, manifest.architecture.layers)
    with closing(opened) as graph:
        with stage("reference"):
            network = ReferenceNetwork(reference_model(reference.checkpoint, task))
        subject = Subject(
            network=network,
            graph=graph,
            heads=manifest.architecture.heads,
            has_half_sums=numerics is not None
            and any(kernel.departs for kernel in numerics.attentions.values()),
        )
        found = {
            call.length: compare(subject, call) for call in progress_bar(calls, "drift", "length")
        }
    departs = numerics is not None and numerics.departs
    return Drift(
        bundle=spec.bundle.name,
        manifest=manifest,
        task=task,
        graph=path,
        numerics=EMULATED if departs else AS_BUILT,
        lengths=tuple(found),
        cells=tuple(cell for comparison in found.values() for cell in comparison.cells),
        first=_first(found),
    )


def _task(spec: DriftSpec, manifest: Manifest) -> str:
    known = tuple(manifest.prefixes)
    if spec.task is None:
        return manifest.tasks[0]
    if spec.task not in known:
        raise InputError(
            f"--task: got {shown(spec.task)}, expected {' or '.join(known)}, which the bundle has"
        )
    return spec.task


def _reference(spec: DriftSpec, contenders: Sequence[Contender], task: str) -> Reference:
    if spec.reference == NO_REFERENCE:
        raise InputError("--reference: got none, but drift is measured from a checkpoint")
    reference = open_reference(spec.reference, spec.revision, contenders)
    if reference is None:
        name = shown(contenders[0].manifest.model.name)
        raise InputError(f"--reference: name the checkpoint of {name}, a folder or a hub id")
    check_model(contenders, reference.sha256)
    if task not in (*reference.checkpoint.tasks, BASE_TASK):
        raise InputError(
            f"--reference: the checkpoint has no adapter {shown(task)}; drift is measured with "
            "those that are in it"
        )
    return reference


def _graph(bundle: Path, manifest: Manifest) -> tuple[GraphKind, Plan | None]:
    """The graph that engines are built from where the bundle has an engine, else the portable one.

    With the plan of the first engine and profile that departs from its graph; None: none does.
    """
    plans = [plan for own in bundle_plans(bundle, manifest).values() for plan in own]
    if not plans:
        return GraphKind.PORTABLE, None
    departing = (plan for plan in plans if numerics_of(plan).departs and numerics_of(plan).is_told)
    return GraphKind.TENSORRT, next(departing, None)


def _first(found: Mapping[int, Comparison]) -> Departure | None:
    """The first place in the network's order, at the length where it departs most."""
    order = [cell.place for cell in next(iter(found.values())).cells]
    found_at = {place for comparison in found.values() for place in comparison.findings}
    first = next((place for place in order if place in found_at), None)
    if first is None:
        return None
    pairs = [
        (cell, comparison.findings[first])
        for comparison in found.values()
        for cell in comparison.cells
        if cell.place == first and first in comparison.findings
    ]
    cell, finding = max(pairs, key=lambda pair: pair[0].excess)
    return Departure(cell=cell, finding=finding)
