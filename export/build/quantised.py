"""Graphs and engines of a quantised bundle: attempts, until one passes the gate or none may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from calibration.table import Calibration
from export.build.inputs import BuildInputs
from export.build.judging import (
    Judged,
    Passed,
    given_leave,
    judge_graphs,
    judge_on_gpu,
    judge_plans,
    look_again,
    reference_for,
)
from export.build.staged import StagedBundle, make_engines, write_model
from export.bundle.plan import BundlePlan
from export.checkpoint.names import Module
from export.console.progress import log, stage
from export.gate.gate import Verdict
from export.graph.gemms import gemm_modules, work
from export.graph.insert_qdq import quantise_graph
from export.graph.precision_plan import PrecisionPlan
from export.graph.trace import PortableGraph
from export.quantisation.fallback import fall_back, quantise_everything
from export.quantisation.rounding import rounded_steps
from export.quantisation.subject import Subject
from export.quantisation.summary import quantisation_figures, write_refusal
from export.report.figures import Attempt, ReportData
from runtimes.errors import GateError


def subject_of(inputs: BuildInputs, plan: BundlePlan) -> Subject:
    """What is calibrated for a bundle."""
    return Subject(inputs.spec, inputs.checkpoint, inputs.sha256, inputs.tokenizer, plan)


def build_quantised(
    inputs: BuildInputs,
    plan: BundlePlan,
    staged: StagedBundle,
    graph: PortableGraph,
    calibration: Calibration,
    position: int,
) -> Passed:
    """Every GEMM is quantised at first; the most sensitive fall back until the gate passes.

    Every attempt is judged by the gate itself, on the graphs that would be shipped. Engines are
    built of graphs that passed; where what they would compute does not, it is the next attempt's
    turn. Where nothing more may fall back, a page beside the calibration says what was tried, and
    :class:`GateError` names it.
    """
    spec, gemms = inputs.spec, gemm_modules(inputs.checkpoint.config)
    refusal = subject_of(inputs, plan).refusal_path
    precision = _everything(inputs, plan, calibration)
    cast = write_model(staged, quantise_graph(graph, precision), precision)
    reference = reference_for(inputs, staged, position)
    engines, attempts = None, list[Attempt]()
    while True:
        verdict = given_leave(staged, judge_graphs(inputs, staged, reference))
        if verdict.passed:
            storages = precision.storages
            engines = engines or make_engines(staged, spec, inputs.trt, inputs.engines, storages)
            verdict = judge_plans(inputs, staged, reference, verdict, engines)
            verdict = given_leave(staged, verdict)
        if engines is not None and verdict.passed:
            verdict = judge_on_gpu(inputs, staged, reference, verdict)
        attempts.append(_attempt(precision, gemms, verdict))
        if engines is not None and verdict.passed:
            break
        if verdict.failure is None and (more := look_again(inputs, staged, reference)):
            log.info("  %s; %d texts now", verdict.undecided, len(more.texts))
            reference = more
            continue
        why = verdict.failure or f"{verdict.undecided}, on all texts there are"
        try:
            following = fall_back(precision, why, calibration, gemms, spec.calibration.fallback_max)
        except GateError as error:
            judged = Judged(reference, verdict, precision, tuple(attempts))
            write_refusal(refusal, report_data(inputs, plan, judged, calibration, why))
            raise GateError(f"{error}; what was tried: {refusal}") from None
        precision = following
        cast = write_model(staged, quantise_graph(graph, precision), precision)
        engines = None
    refusal.unlink(missing_ok=True)  # of a build before
    return Passed(reference, verdict, precision, tuple(attempts), cast=cast, engines=engines)


def report_data(
    inputs: BuildInputs,
    plan: BundlePlan,
    judged: Judged,
    calibration: Calibration,
    refusal: str | None = None,
) -> ReportData:
    """What the report draws; ``refusal`` is why no bundle was published."""
    if judged.precision is None:
        raise ValueError(f"{plan.name} is not quantised and has no report")
    figures = quantisation_figures(
        judged.precision,
        calibration,
        gemm_modules(inputs.checkpoint.config),
        judged.verdict.losses,
        judged.reference.looks,
        judged.attempts,
    )
    return ReportData(
        model=inputs.source.name,
        task=", ".join(plan.tasks),
        target=inputs.spec.target,
        adapter=inputs.spec.adapter,
        reports=judged.verdict.reports,
        quantisation=figures,
        refusal=refusal,
        vocabulary=None if inputs.vocabulary is None else inputs.vocabulary.record,
        table_cost=judged.reference.table_cost,
    )


def _attempt(precision: PrecisionPlan, gemms: Mapping[str, Module], verdict: Verdict) -> Attempt:
    """What the report says of one turn; the last comparison is the one that failed."""
    report = verdict.main if verdict.failure is None else list(verdict.reports.values())[-1]
    return Attempt(
        share=work(gemms, precision.quantised.keys()),
        texts=report.rows,
        min_cosine=report.min_cosine,
        mean_cosine=report.mean_cosine,
        failure=verdict.failure or verdict.undecided,
    )


def _everything(inputs: BuildInputs, plan: BundlePlan, calibration: Calibration) -> PrecisionPlan:
    """Every GEMM quantised, its weight rounded for what it multiplies."""
    precision = quantise_everything(calibration, inputs.spec.scheme, inputs.spec.dtype)
    with stage("rounding"):
        return replace(precision, steps=rounded_steps(subject_of(inputs, plan), precision))
