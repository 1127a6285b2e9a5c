"""The parity gate: what the reference gives, and whether a bundle's graphs agree with it.

Both are functions of what they are given. Nothing is written and nothing is kept:
:mod:`export.gate.parity_file` writes what came out.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calibration import looks
from calibration.evidence import Loss, Outcome, worst
from export.console.progress import log, stage
from export.gate.chunks import chunk_names, embed_chunks, texts_in_chunks
from export.gate.compare import ParityReport, compare, embed, parity_failure, row_cosines
from export.gate.quality import quality_losses
from export.gate.quality_texts import side_of
from export.gate.texts import ParityText, look_texts
from export.gate.traced import gate_executors
from runtimes.arrays import Vectors
from runtimes.choices import HeadName, Interface
from runtimes.errors import GateError
from runtimes.executors.base import Runtime
from runtimes.manifest import Manifest
from runtimes.open import Executor, judged_file, open_runtime
from runtimes.outputs import truncate
from runtimes.schemes import SCHEMES
from runtimes.text.tokens import TextTokenizer

if TYPE_CHECKING:
    from torch import nn

    from export.checkpoint.reader import Checkpoint
    from runtimes.executors.torch_reference import FlashReference

_BF16_TEXTS = 8


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The reference's vectors of the gate's texts, ``[texts, hidden]``, and its name.

    ``chunks`` are those of :func:`export.gate.chunks.texts_in_chunks`, of a chunk head.
    ``bf16_min_cosine`` is the least cosine between the reference and itself in BF16, over some
    texts: what serving the checkpoint in its stored type costs.
    """

    texts: Sequence[ParityText]
    vectors: Vectors
    name: str
    chunks: Vectors | None = None
    bf16_min_cosine: float | None = None
    looks: int = 1  # how often texts were drawn to judge quality by


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Reports by label, the one that speaks for the target first; ``losses`` by label.

    ``executors`` are the labels of those that judged, ``executed`` what ran each of the bundle's
    files. ``failure`` says why the last report did not pass; None where all passed. ``undecided``
    says which loss more texts are needed for; None where all are decided.
    """

    reports: Mapping[str, ParityReport]
    executors: tuple[str, ...] = ()
    executed: Mapping[str, str] = field(default_factory=dict)
    losses: Mapping[str, tuple[Loss, ...]] = field(default_factory=dict)
    failure: str | None = None
    undecided: str | None = None

    @property
    def main(self) -> ParityReport:
        """The report that speaks for the target."""
        return next(iter(self.reports.values()))

    @property
    def passed(self) -> bool:
        """Whether nothing failed and all is decided."""
        return self.failure is None and self.undecided is None

    def joined(self, later: Verdict) -> Verdict:
        """This verdict, which passed, and that of other executors on the same bundle."""
        return Verdict(
            reports={**self.reports, **later.reports},
            executors=self.executors + later.executors,
            executed={**self.executed, **later.executed},
            losses={**self.losses, **later.losses},
            failure=later.failure,
            undecided=self.undecided or later.undecided,
        )

    def require_passed(self) -> None:
        """Raise :class:`GateError` unless every graph agreed."""
        if self.failure is not None:
            raise GateError(f"{self.failure}; nothing was published")


def reference_of(
    checkpoint: Checkpoint,
    manifest: Manifest,
    tokenizer: TextTokenizer,
    texts: Sequence[ParityText],
) -> Reference:
    """The reference in FP32 on texts of the gate, task by task, in the texts' order."""
    from export.gate.reference import reference_model
    from runtimes.executors.torch_reference import FlashReference, reference_place

    device, kernel = reference_place()
    vectors: dict[int, Vectors] = {}
    chunks: list[Vectors] = []
    name, bf16_min_cosine = "", None
    for task, rows in _rows_by_task(texts).items():
        plain = [replace(texts[row], task_id=None) for row in rows]
        with stage(f"reference {task}"):
            model = reference_model(checkpoint, task)
            reference = FlashReference(model, device=device, kernel=kernel)
            found = embed(reference, plain, tokenizer)
            vectors |= dict(zip(rows, found, strict=True))
            if manifest.head is HeadName.CHUNKS and (cut := texts_in_chunks(plain)):
                chunks.append(embed_chunks(reference, cut, tokenizer))
        if bf16_min_cosine is None:
            some = plain[:_BF16_TEXTS]
            bf16_min_cosine = _bf16_cosine(model, reference, some, found, tokenizer)
        name = reference.name
    return Reference(
        texts=texts,
        vectors=np.stack([vectors[row] for row in range(len(texts))]),
        name=name,
        chunks=np.concatenate(chunks) if chunks else None,
        bf16_min_cosine=bf16_min_cosine,
    )


def looked_again(
    checkpoint: Checkpoint, manifest: Manifest, tokenizer: TextTokenizer, reference: Reference
) -> Reference | None:
    """The reference with the texts of the next look; None where all have been looked at."""
    if reference.looks == len(looks.LOOKS):
        return None
    if not (texts := look_texts(manifest, tokenizer, reference.looks)):
        return None  # a bundle of few tokens looks at all that it covers at once
    more = reference_of(checkpoint, manifest, tokenizer, texts)
    both = (reference, more)
    return replace(
        reference,
        texts=[text for part in both for text in part.texts],
        vectors=np.concatenate([part.vectors for part in both]),
        looks=reference.looks + 1,
    )


def _bf16_cosine(
    model: nn.Module,
    reference: FlashReference,
    texts: Sequence[ParityText],
    exact: Vectors,
    tokenizer: TextTokenizer,
) -> float:
    """The least cosine of some texts after ``model`` was cast to BF16, which it stays."""
    import torch

    from runtimes.executors.torch_reference import FlashReference

    stored = FlashReference(
        model, device=reference.device, dtype=torch.bfloat16, kernel=reference.kernel
    )
    return float(row_cosines(exact[: len(texts)], embed(stored, texts, tokenizer)).min())


def judge(
    folder: Path,
    manifest: Manifest,
    tokenizer: TextTokenizer,
    reference: Reference,
    executors: Sequence[Executor],
) -> Verdict:
    """Compare what each executor makes of the bundle in ``folder`` with the reference.

    ``manifest`` may be a draft. Stops at the first comparison that fails; raises
    :class:`~runtimes.errors.AdaptrtError` where an executor cannot open or run its graph.
    """
    speaker = gate_executors(manifest)[0].report_label
    labels = tuple(executor.report_label for executor in executors)
    reports: dict[str, ParityReport] = {}
    losses: dict[str, tuple[Loss, ...]] = {}
    executed: dict[str, str] = {}
    undecided: str | None = None
    for executor in executors:
        label = executor.report_label
        with open_runtime(folder, manifest, executor) as runtime:
            log.debug("  parity %s: by %s", label, runtime.name)
            if (file := judged_file(executor, manifest)) is not None:
                executed[file.path] = runtime.name
            orders = _orders(label, manifest, reference.texts, apart=label == speaker)
            for result in _compare_runtime(runtime, label, orders, manifest, tokenizer, reference):
                reports[result.label] = result.report
                if result.losses:
                    losses[result.label] = result.losses
                undecided = undecided or result.undecided
                if (failure := result.failure) is not None:
                    return Verdict(
                        reports=reports,
                        executors=labels,
                        executed=executed,
                        losses=losses,
                        failure=failure,
                    )
        gc.collect()
    return Verdict(
        reports=reports,
        executors=labels,
        executed=executed,
        losses=losses,
        undecided=undecided,
    )


@dataclass(frozen=True)
class _Comparison:
    """One comparison; ``losses`` where quality is judged too."""

    label: str
    report: ParityReport
    losses: tuple[Loss, ...] = ()

    @property
    def failure(self) -> str | None:
        if (failure := parity_failure(self.report, self.label)) is not None:
            return failure
        refused = worst(self.losses, Outcome.REFUSED)
        return None if refused is None else f"quality was not kept by {self.label}: {refused}"

    @property
    def undecided(self) -> str | None:
        open_ = worst(self.losses, Outcome.UNDECIDED)
        return None if open_ is None else f"quality kept by {self.label} is in doubt: {open_}"


def _orders(
    label: str, manifest: Manifest, texts: Sequence[ParityText], *, apart: bool
) -> Iterator[tuple[str, list[list[int]]]]:
    """Orders to run the texts in: all together, tasks mixed; with ``apart`` also task by task.

    What quality is judged by is run once.
    """
    by_task = _rows_by_task(texts)
    if manifest.interface is Interface.OFFICIAL:
        yield label, list(by_task.values())  # all its scalar task_id can say
        return
    yield label, [list(range(len(texts)))]
    if len(by_task) > 1 and apart:
        groups = [[r for r in rows if side_of(texts[r].name) is None] for rows in by_task.values()]
        yield f"{label}, one task at a time", groups


def _rows_by_task(texts: Sequence[ParityText]) -> dict[str, list[int]]:
    by_task: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        by_task.setdefault(text.task, []).append(row)
    return by_task


def _compare_runtime(
    runtime: Runtime,
    label: str,
    orders: Iterator[tuple[str, list[list[int]]]],
    manifest: Manifest,
    tokenizer: TextTokenizer,
    reference: Reference,
) -> Iterator[_Comparison]:
    """Every comparison of one executor, computed one by one."""
    names, texts = (reference.name, runtime.name), reference.texts
    for order_label, groups in orders:
        with stage(f"parity {order_label}"):
            vectors = _embed_in(groups, runtime, texts, tokenizer)
        rows = list(vectors)
        both = (reference.vectors[rows], np.stack(list(vectors.values())))
        run = [texts[row] for row in rows]
        yield from _at_lengths(order_label, both, run, names, manifest, rank=True)
    if reference.chunks is not None:
        cut, chunk_label = texts_in_chunks(texts), f"{label}, chunks"
        with stage(f"parity {chunk_label}"):
            both = (reference.chunks, embed_chunks(runtime, cut, tokenizer))
        yield from _at_lengths(chunk_label, both, chunk_names(cut), names, manifest, rank=False)


def _at_lengths(
    label: str,
    both: tuple[Vectors, Vectors],
    texts: Sequence[ParityText],
    names: tuple[str, str],
    manifest: Manifest,
    *,
    rank: bool,
) -> Iterator[_Comparison]:
    """The reference's and our vectors at full length.

    Where the scheme gates quality, at the shortest Matryoshka length too, and with ``rank`` the
    quality on the texts' sets has to be kept.
    """
    scheme = SCHEMES[manifest.precision]
    shortest, full = manifest.dimensions[0], manifest.dimensions[-1]
    for width in dict.fromkeys((full, shortest) if scheme.gates_quality else (full,)):
        exact, ours = (truncate(vectors, width) for vectors in both)
        report = compare(
            exact,
            ours,
            texts,
            names=names,
            threshold=scheme.min_cosine,
            mean_threshold=scheme.mean_cosine,
        )
        judged = rank and scheme.gates_quality and report.passed
        yield _Comparison(
            label if width == full else f"{label}, {width} dimensions",
            report,
            quality_losses(exact, ours, texts) if judged else (),
        )


def _embed_in(
    groups: list[list[int]], runtime: Runtime, texts: Sequence[ParityText], tokenizer: TextTokenizer
) -> dict[int, Vectors]:
    """Vectors by the text's index, in the texts' order, computed group by group."""
    vectors: dict[int, Vectors] = {}
    for group in groups:
        rows = embed(runtime, [texts[i] for i in group], tokenizer)
        vectors |= dict(zip(group, rows, strict=True))
    return dict(sorted(vectors.items()))
