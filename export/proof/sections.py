"""The sections of a proof, a row each: what it claims in plain words, and how that is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from export.proof import call_sections, control_sections, parity_sections
from export.proof.records import Result, SectionReport, Verdict
from export.proof.steps import Evidence, NotComputedError
from export.proof.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Section:
    """One claim; ``run`` judges it by what was computed."""

    name: str
    title: str
    claim: str
    method: str
    run: Callable[[Subject, Evidence], Result]


FILES = "files"
SECTIONS = (
    Section(
        name=FILES,
        title="Files and hashes",
        claim="These are the very files that the build wrote and checked.",
        method="The SHA-256 of every file is computed again and compared with the bundle's "
        "manifest. A file that the manifest does not name counts as a difference.",
        run=parity_sections.files,
    ),
    Section(
        name="plan",
        title="What the compiler made of it",
        claim="The compiled engines keep the rules that the build holds them to: nothing was "
        "silently widened, split or left out.",
        method="Read from what the build recorded of each engine's plan, a file that is hashed "
        "above. The engine itself is not run for this.",
        run=parity_sections.plan,
    ),
    Section(
        name="lengths",
        title="By length",
        claim="Short or long, a text gets the vector that the checkpoint gives it.",
        method="Texts of exactly so many tokens are embedded by the bundle and by the checkpoint "
        "in PyTorch, in FP32. The error is 1 − cosine between the two vectors: 0 where they point "
        "the same way. The gate is what the build holds this precision to.",
        run=parity_sections.lengths,
    ),
    Section(
        name="languages",
        title="By language",
        claim="No language is served worse than the gate allows.",
        method="Short texts and paragraphs in each language, compared with the checkpoint.",
        run=parity_sections.languages,
    ),
    Section(
        name="neighbours",
        title="Neighbours and padding",
        claim="A text's vector does not depend on what else is in the call.",
        method="The same texts are embedded alone, beside and behind shorter and longer ones, and "
        "with padding after them; each vector is compared with that of the text alone and with "
        "the checkpoint's.",
        run=call_sections.neighbours,
    ),
    Section(
        name="order",
        title="Order",
        claim="In whichever order texts come, each gets its own vector back.",
        method="The texts are given to the embedder as they stand, reversed and shuffled. Each "
        "vector has to stay what it was, and they have to lie nearer to their own texts' in the "
        "checkpoint (0) than to other texts' (1).",
        run=call_sections.orders,
    ),
    Section(
        name="tasks",
        title="Every task, and all of them in one batch",
        claim="Each of the bundle's tasks gives the vectors of the checkpoint's adapter for it, "
        "also where neighbours in the batch ask for other tasks.",
        method="Each task's texts alone, then all tasks' texts shuffled together. The last column "
        "says where the vectors lie on the way from their own task's (0) to the nearest other "
        "task's (1).",
        run=parity_sections.tasks,
    ),
    Section(
        name="outputs",
        title="Dimensions and types of vectors",
        claim="Vectors that are cut short or stored in a byte or a bit per value are what the "
        "checkpoint's vectors would give.",
        method="Through the embedder, as a program gets them: each number of dimensions in each "
        "type, beside the same made of the checkpoint's vectors. A value may differ only as far "
        "as the difference of the numbers it was made of explains.",
        run=call_sections.outputs,
    ),
    Section(
        name="chunks",
        title="Late chunking",
        claim="The vectors of a document's parts are the means of the checkpoint's token vectors.",
        method="Each text is cut in three parts and one that overlaps them; their vectors come "
        "from one pass over the whole text and are compared with the checkpoint's.",
        run=call_sections.chunks,
    ),
    Section(
        name="controls",
        title="Would a wrong model be noticed?",
        claim="The judgement that this bundle passes refuses every model that is wrong on purpose.",
        method="The checkpoint is made wrong in one way at a time, and the bundle's own graph is "
        "asked wrongly where it can be. Each result is judged as the bundle is: by the gate's "
        "cosines, by the vectors' norms, and by whether they are nearer to the right model or "
        "to the wrong one. The bundle's place is 0 at the right model and 1 at the wrong one; "
        "it has to be below 0.5. A control that is accepted fails the proof.",
        run=control_sections.controls,
    ),
    Section(
        name="floor",
        title="How exact is the reference itself?",
        claim="The reference gives the same vectors whichever way it is computed, so what is left "
        "of the error is the bundle's.",
        method="The checkpoint in PyTorch against itself: each text alone, on one thread, with "
        "attention written out, in FP64. BF16, the type that the checkpoint is published in, is "
        "shown beside it and not judged.",
        run=control_sections.floor,
    ),
    Section(
        name="repeated",
        title="The same bytes twice",
        claim="The same text gives the same bytes, today and in a new session.",
        method="The texts are embedded twice in one session and once in another that was opened "
        "anew.",
        run=call_sections.repeated,
    ),
)


def judge_sections(subject: Subject, evidence: Evidence) -> Iterator[SectionReport]:
    """Every section; where the files are others, nothing was executed and only that is said."""
    broken = False
    for section in SECTIONS:
        if broken:
            reason = "the files are not those that were built, so nothing was executed"
            result = Result(verdict=Verdict.NOT_EXECUTABLE, reason=reason)
        else:
            result = _run(section, subject, evidence)
        broken = broken or (section.name == FILES and result.verdict is Verdict.FAILED)
        yield SectionReport(
            name=section.name,
            title=section.title,
            claim=section.claim,
            method=section.method,
            result=result,
        )


def _run(section: Section, subject: Subject, evidence: Evidence) -> Result:
    try:
        return section.run(subject, evidence)
    except NotComputedError as error:
        return Result(verdict=Verdict.FAILED, reason=str(error))
