"""The stages in order: checkpoint → plan → graph → weights → engines and parity → bundle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from calibration.table import Calibration
from export.build.fingerprints import write_fingerprints
from export.build.inputs import BuildInputs
from export.build.judging import (
    Passed,
    given_leave,
    judge_graphs,
    judge_on_gpu,
    judge_plans,
    look_again,
    reference_for,
)
from export.build.manifest import draft_manifest, final_manifest
from export.build.output_ranges import output_ranges
from export.build.pruning import covered_corpus, with_vocabulary, write_vocabulary
from export.build.quantised import build_quantised, report_data, subject_of
from export.build.staged import (
    Engines,
    StagedBundle,
    graph_files,
    make_engines,
    write_client_files,
    write_model,
)
from export.bundle.plan import BundlePlan, plan_bundle
from export.bundle.replacing import require_replaceable
from export.bundle.staging import staging, write_json
from export.console.progress import log, stage
from export.engines.device_files import write_device_files
from export.engines.device_memory import require_fits
from export.engines.reuse import EngineSource
from export.gate.emulated import emulated_labels
from export.gate.gate import Reference, Verdict
from export.gate.parity_file import write_parity
from export.graph.quantise_table import quantise_table
from export.graph.table import QuantisedTable
from export.graph.trace import PortableGraph, trace
from export.graph.weights import CastReport
from export.quantisation.calibrate import calibration_of
from export.quantisation.summary import write_files
from export.quantisation.table import table_of
from runtimes.bundle_files import MANIFEST_FILE
from runtimes.choices import AdapterMode, Precision, Target
from runtimes.errors import GateError
from runtimes.manifest import Manifest, Parity, Quantisation
from runtimes.tables import gate_of


def build_bundles(
    inputs: BuildInputs, tasks: tuple[str, ...] | None
) -> Iterator[tuple[Path, Manifest]]:
    """Build one bundle per task (``None``: every adapter there is), or one switchable for all.

    The merged bundles of several tasks share one copy of the tensors no adapter changes, and of
    the engines where those are built without weights.
    """
    chosen = tasks_of(inputs, tasks)
    shared = inputs.engines.shared if inputs.engines else None
    # IR has one file of weights, so bundles with it have nothing in common.
    share = inputs.spec.target is not Target.OPENVINO and (len(chosen) > 1 or shared is not None)
    plans = [
        with_vocabulary(
            plan_bundle(inputs.spec, inputs.checkpoint, task, shared=share), inputs.vocabulary
        )
        for task in chosen
    ]
    for plan in plans:
        _check_places(inputs, plan)
    table: QuantisedTable | None = None
    for position, plan in enumerate(plans):
        if position == 0 or not share:  # else the first bundle's, which is in the shared file
            table = _table(inputs, plan)
        folder, manifest = _build_bundle(inputs, plan, position, shared, table)
        yield folder, manifest
        shared = EngineSource(folder, manifest).shared
        if inputs.spec.refittable:
            inputs = replace(inputs, engines=EngineSource(folder, manifest))


def tasks_of(inputs: BuildInputs, tasks: tuple[str, ...] | None) -> tuple[str, ...]:
    """The tasks to plan a bundle for; a switchable one is for all."""
    if inputs.spec.adapter is AdapterMode.SWITCHABLE:
        return (inputs.spec.task,)
    return tasks or inputs.checkpoint.tasks


def _build_bundle(
    inputs: BuildInputs,
    plan: BundlePlan,
    position: int,
    shared: Path | None,
    table: QuantisedTable | None,
) -> tuple[Path, Manifest]:
    """``position`` counts the bundles of the build, ``shared`` is the former's shared tensors."""
    spec, final = inputs.spec, _final(inputs, plan)
    log.debug("  %s: tasks %s; %s", plan.name, ", ".join(plan.tasks), plan.form)
    calibration = _calibration(inputs, plan) if spec.scheme.needs_calibration else None
    with staging(final, lambda place: require_replaceable(place, spec, plan)) as folder:
        if spec.target is Target.TENSORRT10:
            write_device_files(folder, spec.workspace_gib)
        with stage("trace"):
            graph = _trace(inputs, plan, table)
        files = graph_files(plan, spec)
        draft = draft_manifest(files, inputs, plan)
        write_client_files(folder, inputs.source.folder, draft, graph)
        draft = write_vocabulary(folder, draft, inputs, position)
        staged = StagedBundle(
            folder=folder,
            files=files,
            inputs=plan.form.inputs,
            contents=replace(plan.contents, table=table),
            max_tokens=spec.limits.max_tokens,
            shared=shared,
            draft=draft,
            check_weights=partial(require_fits, spec, inputs.checkpoint.config, least=False),
        )
        if calibration is None:
            passed = _build_unquantised(inputs, staged, graph, position)
        else:
            passed = build_quantised(inputs, plan, staged, graph, calibration, position)
        _warn_flushed(passed.cast, spec.precision)
        quantisation = _write_results(inputs, plan, folder, passed, calibration)
        with stage("ranges of 8-bit output"):
            corpus = covered_corpus(inputs, plan)
            ranges = output_ranges(folder, staged.draft, inputs.tokenizer, corpus)
        cost = passed.reference.table_cost
        draft = replace(staged.draft, output_ranges=ranges, table_cost=cost)
        with stage("fingerprint"):
            write_fingerprints(folder, draft, inputs.tokenizer)
        with stage("hashes"):
            parity = _parity(passed)
            manifest = final_manifest(
                draft,
                folder,
                spec,
                passed.engines,
                passed.verdict.executed,
                parity,
                quantisation,
            )
        write_json(folder / MANIFEST_FILE, manifest.to_json())
    return final, manifest


def _build_unquantised(
    inputs: BuildInputs, staged: StagedBundle, graph: PortableGraph, position: int
) -> Passed:
    """Engines first: they take seconds and can fail, the gate takes minutes."""
    cast = write_model(staged, graph)
    engines = make_engines(staged, inputs.spec, inputs.trt, inputs.engines)
    reference = reference_for(inputs, staged, position)
    while (verdict := _judge(inputs, staged, reference, engines)).undecided is not None:
        more = look_again(inputs, staged, reference)
        if more is None:
            raise GateError(f"{verdict.undecided}, on all texts there are; nothing was published")
        log.info("  %s; %d texts now", verdict.undecided, len(more.texts))
        reference = more
    return Passed(reference, verdict, cast=cast, engines=engines)


def _judge(
    inputs: BuildInputs, staged: StagedBundle, reference: Reference, engines: Engines
) -> Verdict:
    """The verdict on graphs and engines; :class:`GateError` where one fails."""
    verdict = judge_graphs(inputs, staged, reference)
    if verdict.failure is None:
        verdict = judge_plans(inputs, staged, reference, verdict, engines)
    verdict = given_leave(staged, verdict)
    verdict.require_passed()
    return judge_on_gpu(inputs, staged, reference, verdict)


def _write_results(
    inputs: BuildInputs,
    plan: BundlePlan,
    folder: Path,
    passed: Passed,
    calibration: Calibration | None,
) -> Quantisation | None:
    """Write how the bundle compared; what the manifest says of a quantised one."""
    verdict, data = passed.verdict, None
    if calibration is not None and passed.precision is not None:
        data = report_data(inputs, plan, passed, calibration)
        write_files(folder, data, calibration)
    quantisation = None if data is None else data.quantisation.to_json()
    write_parity(
        folder,
        passed.reference,
        verdict,
        gate_of(inputs.spec.precision, inputs.spec.embeddings),
        inputs.spec.parity_tokens,
        quantisation,
        emulation=emulated_labels(passed.engines.plans),
    )
    return None if data is None else data.quantisation.summary


def _parity(passed: Passed) -> Parity:
    """What the manifest says of the graph that speaks for the target."""
    return Parity(
        **passed.verdict.main.summary(),
        reference_bf16_min_cosine=passed.reference.bf16_min_cosine,
        flushed_weights=dict(passed.cast.flushed),
    )


def _final(inputs: BuildInputs, plan: BundlePlan) -> Path:
    return inputs.spec.out / inputs.checkpoint.name / plan.name


def _check_places(inputs: BuildInputs, plan: BundlePlan) -> None:
    """Before the work: nothing may be in the way of what it will write."""
    require_replaceable(_final(inputs, plan), inputs.spec, plan)
    if inputs.spec.scheme.needs_calibration:
        subject_of(inputs, plan).stored()


def _calibration(inputs: BuildInputs, plan: BundlePlan) -> Calibration:
    subject = subject_of(inputs, plan)
    calibration, reused = calibration_of(subject)
    log.info("calibration: %s%s", subject.path, " (reused)" if reused else "")
    return calibration


def _table(inputs: BuildInputs, plan: BundlePlan) -> QuantisedTable | None:
    with stage("table"):
        return table_of(subject_of(inputs, plan))


def _trace(inputs: BuildInputs, plan: BundlePlan, table: QuantisedTable | None) -> PortableGraph:
    limits = inputs.spec.limits
    config, dtype = inputs.checkpoint.config, inputs.spec.dtype
    graph = trace(config, dtype, limits.max_batch, limits.max_tokens, plan.form)
    return graph if table is None else quantise_table(graph, table)


def _warn_flushed(cast: CastReport, precision: Precision) -> None:
    for name, share in cast.flushed.items():
        log.warning(
            "warning: %s: %.1f%% of its values are too small for %s and became zero",
            name,
            100 * share,
            precision,
        )
