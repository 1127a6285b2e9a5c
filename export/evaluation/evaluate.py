"""``adaptrt eval``: bundles scored by MTEB, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from export.evaluation.checkpoint import (
    Reference,
    load_reference,
    open_reference,
    reference_name,
)
from export.evaluation.contenders import Contender, check_contenders, check_model, open_contenders
from export.evaluation.encoder import Embedders, MtebEncoder
from export.evaluation.results import WholeFilesCache, open_cache, score
from export.evaluation.scores import REFERENCE, Column, Evaluation, Row, check_gateable
from export.evaluation.spec import EvaluationSpec
from export.evaluation.tasks import TaskMaker, find_tasks
from runtimes.choices import Embeddings, OutputType, Precision
from runtimes.embedder import Embedder
from runtimes.manifest import Manifest
from runtimes.open import cpu_executor, find_executor


def evaluate(spec: EvaluationSpec) -> Evaluation:
    """Score every bundle, and the checkpoint first.

    Results lie in ``spec.out`` as mteb's own files, task by task; those that are there already
    are taken as they are. Raises :class:`InputError` before any work for what cannot be scored.
    """
    if spec.runtime is not None:
        find_executor(spec.runtime)
    contenders = open_contenders(spec.bundles)
    makers = find_tasks(spec.tasks, spec.preset)
    types = {(task := make()).metadata.name: task.metadata.type for make in makers}
    check_contenders(contenders, types, spec.dimensions, spec.output)
    reference = open_reference(spec.reference, spec.revision, contenders)
    if reference is not None:
        check_model(contenders, reference.sha256)
    if spec.gate:
        check_gateable(types.values(), has_reference=reference is not None, output=spec.output)
    entries = [] if reference is None else [_reference_entry(reference, contenders, spec)]
    entries += [_bundle_entry(contender, spec) for contender in contenders]
    return _scored(entries, makers, open_cache(spec.out))


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A column before it has scores."""

    label: str
    precision: Precision | None
    embeddings: Embeddings
    name: str
    revision: str
    embedders: Embedders
    dimensions: int
    prefix: bool
    output: OutputType

    def score(self, makers: Sequence[TaskMaker], cache: WholeFilesCache) -> Mapping[Row, float]:
        """Open, score and close."""
        encoder = MtebEncoder(
            self.embedders,
            name=self.name,
            revision=self.revision,
            dimensions=self.dimensions,
            prefix=self.prefix,
            output=self.output,
        )
        with closing(self.embedders):
            return score(encoder, self.label, makers, cache)


def _scored(
    entries: Sequence[_Entry], makers: Sequence[TaskMaker], cache: WholeFilesCache
) -> Evaluation:
    rows: dict[Row, None] = {}
    columns = []
    for entry in entries:
        scores = entry.score(makers, cache)
        rows |= dict.fromkeys(scores)
        columns.append(
            Column(
                label=entry.label,
                precision=entry.precision,
                embeddings=entry.embeddings,
                name=entry.name,
                revision=entry.revision,
                scores={row.cell: value for row, value in scores.items()},
            )
        )
    has_reference = columns[0].precision is None
    return Evaluation(
        rows=tuple(rows),
        columns=tuple(columns[has_reference:]),
        reference=columns[0] if has_reference else None,
    )


def _bundle_entry(contender: Contender, spec: EvaluationSpec) -> _Entry:
    by_task = contender.by_task
    runtime = spec.runtime or cpu_executor(contender.manifest).name
    return _entry(
        spec,
        contender.manifest,
        Embedders(
            place=lambda task: by_task[task].folder,
            load=partial(Embedder.load, runtime=runtime),
        ),
        label=contender.label,
        precision=contender.manifest.precision,
        embeddings=contender.manifest.embeddings,
        name=f"{contender.name}-{runtime}",
        revision=contender.revision,
        output=spec.output,
    )


def _reference_entry(
    reference: Reference, contenders: Sequence[Contender], spec: EvaluationSpec
) -> _Entry:
    """Texts end where they do in the bundle that takes the longest."""
    manifest = max((c.manifest for c in contenders), key=lambda manifest: manifest.max_tokens)
    return _entry(
        spec,
        manifest,
        Embedders(
            place=lambda task: task, load=lambda task: load_reference(reference, task, manifest)
        ),
        label=REFERENCE,
        precision=None,
        name=reference_name(reference, manifest.max_tokens),
        revision=reference.sha256,
    )


def _entry(
    spec: EvaluationSpec,
    manifest: Manifest,
    embedders: Embedders,
    *,
    label: str,
    precision: Precision | None,
    embeddings: Embeddings = Embeddings.SAME,
    name: str,
    revision: str,
    output: OutputType = OutputType.FLOAT32,
) -> _Entry:
    """What shapes a score beside the model is in the name that its results are kept under."""
    dimensions = spec.dimensions or manifest.dimensions[-1]
    prefix = "" if spec.prefix else "-no-prefix"
    suffix = "" if output is OutputType.FLOAT32 else f"-{output}"
    return _Entry(
        label=label,
        precision=precision,
        embeddings=embeddings,
        name=f"adaptrt/{name}-{dimensions}{suffix}{prefix}",
        revision=revision,
        embedders=embedders,
        dimensions=dimensions,
        prefix=spec.prefix,
        output=output,
    )
