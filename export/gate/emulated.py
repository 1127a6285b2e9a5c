"""The gate's look at compiled engines: their plans' numerics on the gate's texts, on a CPU.

Where a plan departs from its graph's own arithmetic (:mod:`export.emulation.facts`), the graph's
vectors are not the engine's, and what the engine would compute is judged beside the graph: once
for each numerics that the bundle's engines and their profiles have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from export.emulation.facts import Numerics, numerics_of
from export.engines.plan import Plan
from export.engines.plan_file import Plans
from export.gate.compare import embed
from export.gate.gate import Reference, Verdict, judge
from export.gate.texts import ParityText
from runtimes.arrays import Vectors
from runtimes.choices import GraphKind
from runtimes.executors.base import Runtime
from runtimes.manifest import Manifest
from runtimes.open import Executor, OpenOptions
from runtimes.text.tokens import TextTokenizer

if TYPE_CHECKING:
    from export.emulation.engine import EmulatedEngine

LABEL = "emulated engine"
AS_THE_GRAPH = "the graph's own arithmetic"
UNTOLD = "the plan does not tell the factors of its products"


@dataclass(frozen=True, kw_only=True)
class Emulation:
    """One numerics to emulate: the label of its reports, a plan that has it, whose plan it is."""

    label: str
    plan: Plan
    engines: tuple[str, ...]


def emulations(plans: Plans) -> tuple[Emulation, ...]:
    """What has to be emulated of a bundle's engines; none where no plan departs."""
    found: list[tuple[Numerics, Plan, list[str]]] = []
    for engine, plan in _by_profile(plans):
        numerics = numerics_of(plan)
        same = next((names for known, _, names in found if known == numerics), None)
        if same is not None:
            same.append(engine)
        elif numerics.departs and numerics.is_told:
            found.append((numerics, plan, [engine]))
    return tuple(
        Emulation(
            label=LABEL if len(found) == 1 else f"{LABEL} {number}",
            plan=plan,
            engines=tuple(dict.fromkeys(names)),
        )
        for number, (_, plan, names) in enumerate(found, 1)
    )


def emulated_executors(plans: Plans) -> tuple[Executor, ...]:
    """A row for each of :func:`emulations`, to be opened as any other executor is."""
    return tuple(_executor(emulation, []) for emulation in emulations(plans))


def emulated_labels(plans: Plans) -> Mapping[str, tuple[str, ...]]:
    """By engine, the labels of the reports that its plan is judged by, as ``parity.json`` says."""
    wanted = emulations(plans)
    return {
        engine: tuple(e.label for e in wanted if engine in e.engines) or (_why_not(own),)
        for engine, own in plans.items()
        if own
    }


def judge_engines(
    folder: Path,
    manifest: Manifest,
    tokenizer: TextTokenizer,
    reference: Reference,
    plans: Plans,
) -> Verdict | None:
    """Compare what the engines would compute with the reference; None where no plan departs.

    A failure names the first node whose sums overflow.
    """
    opened: list[EmulatedEngine] = []
    rows = [_executor(emulation, opened) for emulation in emulations(plans)]
    if not rows:
        return None
    verdict = judge(folder, manifest, tokenizer, reference, rows)
    if verdict.failure is None or not (overflow := _overflow(opened[-1])):
        return verdict
    return replace(verdict, failure=f"{verdict.failure}; overflow: {overflow}")


def emulate(
    graph: Path, plan: Plan, texts: Sequence[ParityText], tokenizer: TextTokenizer
) -> Vectors:
    """What the engine of ``plan`` would make of texts, ``[texts, hidden]``.

    ``graph`` is the file that the engine was built from, with its weights beside it.
    """
    from export.emulation.engine import EmulatedEngine

    with EmulatedEngine(graph, plan) as engine:
        return embed(engine, texts, tokenizer)


def _why_not(plans: Sequence[Plan]) -> str:
    return AS_THE_GRAPH if all(numerics_of(plan).is_told for plan in plans) else UNTOLD


def _by_profile(plans: Plans) -> Iterator[tuple[str, Plan]]:
    for engine, own in plans.items():
        for plan in own:
            yield engine, plan


def _executor(emulation: Emulation, opened: list[EmulatedEngine]) -> Executor:
    """The row of an emulation; what it opens is put into ``opened``."""

    def opener(folder: Path, manifest: Manifest, options: OpenOptions) -> Runtime:
        from export.emulation.engine import EmulatedEngine

        path = folder / manifest.artifact(GraphKind.TENSORRT).path
        opened.append(EmulatedEngine(path, emulation.plan))
        return opened[-1]

    return Executor(
        name=emulation.label.replace(" ", "_"),
        label=emulation.label,
        graph=GraphKind.TENSORRT,
        opener=opener,
        judges=True,
        offered=False,
    )


def _overflow(engine: EmulatedEngine) -> str:
    """The first node whose sums overflow: in those behind it, infinity spreads."""
    found = {name: o for name, o in engine.overflows.items() if o.count}
    if not found:
        return ""
    name, first = next(iter(found.items()))
    more = f" (and {len(found) - 1} nodes behind it)" if len(found) > 1 else ""
    return f"{name}: {first}{more}"
