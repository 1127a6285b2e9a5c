"""The gate on one staged bundle: its graphs, what its engines would compute, the engine itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from calibration.evidence import Outcome
from export.build.inputs import BuildInputs
from export.build.manifest import draft_with_engines
from export.build.staged import Engines, StagedBundle
from export.console.progress import log
from export.gate.emulated import judge_engines
from export.gate.gate import Reference, Verdict, judge, looked_again, reference_of
from export.gate.table_cost import TableTrial
from export.gate.texts import gate_texts
from export.gate.traced import gate_executors
from export.graph.precision_plan import PrecisionPlan
from export.graph.weights import CastReport
from export.report.figures import Attempt
from runtimes.executors.tensorrt.cuda import device_sm


@dataclass(frozen=True)
class Judged:
    """Graphs and engines that the gate judged; ``precision`` where the scheme quantises."""

    reference: Reference
    verdict: Verdict
    precision: PrecisionPlan | None = None
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True)
class Passed(Judged):
    """A staged bundle whose graphs agree with the reference, and whose engines are built."""

    cast: CastReport = field(kw_only=True)
    engines: Engines = field(kw_only=True)


def reference_for(inputs: BuildInputs, staged: StagedBundle, position: int) -> Reference:
    """The reference on the gate's texts; ``position`` counts the bundles of the build."""
    draft, contents = staged.draft, staged.contents
    texts = gate_texts(draft, inputs.tokenizer, inputs.spec.parity_tokens, position)
    trial = None
    if contents.table is not None:
        trial = TableTrial(contents.table, beside=contents.bank is not None)
    return reference_of(inputs.checkpoint, draft, inputs.tokenizer, texts, trial)


def look_again(inputs: BuildInputs, staged: StagedBundle, reference: Reference) -> Reference | None:
    """The reference with more texts; None where there are no more."""
    return looked_again(inputs.checkpoint, staged.draft, inputs.tokenizer, reference)


def judge_graphs(inputs: BuildInputs, staged: StagedBundle, reference: Reference) -> Verdict:
    """The verdict on the graphs, by every executor that judges them."""
    executors = gate_executors(staged.draft)
    return judge(staged.folder, staged.draft, inputs.tokenizer, reference, executors)


def judge_on_gpu(
    inputs: BuildInputs, staged: StagedBundle, reference: Reference, verdict: Verdict
) -> Verdict:
    """The verdict on the graphs, which passed, with that on the engine where its GPU is."""
    draft = draft_with_engines(staged.draft, staged.folder, inputs.spec, device_sm())
    executors = [row for row in gate_executors(draft) if row.engine is not None]
    if not executors:
        return verdict
    engine = judge(staged.folder, draft, inputs.tokenizer, reference, executors)
    engine.require_passed()
    return verdict.joined(engine)


def judge_plans(
    inputs: BuildInputs,
    staged: StagedBundle,
    reference: Reference,
    verdict: Verdict,
    engines: Engines,
) -> Verdict:
    """``verdict`` of the graphs with that of what their engines would compute."""
    emulated = judge_engines(
        staged.folder, staged.draft, inputs.tokenizer, reference, engines.plans
    )
    return verdict if emulated is None else verdict.joined(emulated)


def given_leave(staged: StagedBundle, verdict: Verdict) -> Verdict:
    """``verdict`` without its doubt where a bundle of few tokens covers too few texts to end it.

    All that it covers are looked at from the first, and every loss found on them is within its
    limit: only the bounds, which are as wide as the texts are few, are not.
    """
    record = staged.draft.vocabulary
    losses = [loss for found in verdict.losses.values() for loss in found]
    if (
        record is None
        or record.gate.covered == record.gate.texts
        or verdict.failure is not None
        or verdict.undecided is None
        or any(loss.outcome is Outcome.UNDECIDED and loss.loss > loss.limit for loss in losses)
    ):
        return verdict
    log.warning(
        "warning: VOCABULARY covers too few of the gate's texts to decide by; accepted, as no loss "
        "on them is above its limit: %s",
        verdict.undecided,
    )
    return replace(verdict, undecided=None)
