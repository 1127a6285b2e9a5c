"""``adaptrt verify``: is a bundle still what was built, and does it still agree?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from calibration.evidence import Loss, Outcome, worst
from export.bundle.staging import check_hashes
from export.engines.plan_file import bundle_plans
from export.gate.chunks import CHUNKS, texts_in_chunks
from export.gate.compare import ParityReport
from export.gate.emulated import emulations
from export.gate.gate import Reference, Verdict, judge
from export.gate.parity_file import ParityRecord, read_parity, read_vectors
from export.gate.texts import THINNING, ParityText, gate_texts, look_texts, texts_sha256
from export.gate.traced import TRACED, gate_executors
from runtimes.choices import ArtifactKind, FileKind, HeadName
from runtimes.errors import AdaptrtError, GateError, InputError, MissingError, one_line, shown
from runtimes.manifest import Manifest
from runtimes.open import EXECUTORS, Executor, judging_executors
from runtimes.text.tokenizer_file import load_tokenizer
from runtimes.text.tokens import TextTokenizer

_WITHOUT_CHUNKS = "the bundle, built by an earlier version, holds no reference vectors of chunks"
_NOT_JUDGED = "the gate that the bundle was built with did not have it"
_ENGINES = {row.report_label for row in EXECUTORS.values() if row.engine is not None}


@dataclass(frozen=True)
class Verification:
    """What was compared again and agreed, and why the rest of the gate's reports was not."""

    verdict: Verdict
    not_run: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """One for each comparison of the gate."""
        for label, report in self.verdict.reports.items():
            yield (
                f"{label}: {report.rows} texts, minimum cosine {report.min_cosine:.7f} "
                f"(gate {report.threshold}), mean {report.mean_cosine:.7f}"
            )
            losses = self.verdict.losses.get(label, ())
            if (nearest := worst(losses, Outcome.ACCEPTED)) is not None:
                yield f"{label}, quality: nearest to its limit of {len(losses)}, {nearest}"
        for label, reason in self.not_run.items():
            yield f"{label}: not run, {reason}"


@dataclass(frozen=True)
class _Published:
    """A bundle whose files are as built, with what it records of its comparison."""

    folder: Path
    manifest: Manifest
    record: ParityRecord

    def file(self, kind: ArtifactKind) -> Path:
        """The one artefact of a kind."""
        return self.folder / self.manifest.artifact(kind).path

    @property
    def parity_file(self) -> Path:
        """Where the record is."""
        return self.file(FileKind.PARITY)

    @property
    def builder(self) -> str:
        """What to do where this version's gate is not the one that built the bundle."""
        version = self.manifest.versions.get("adaptrt", "of an unrecorded version")
        return f"verify with adaptrt {version}, which built it, or build the bundle again"

    @cached_property
    def emulated(self) -> tuple[str, ...]:
        """The labels of what its engines would compute, where their plans depart from the graph."""
        plans = bundle_plans(self.folder, self.manifest)
        return tuple(emulation.label for emulation in emulations(plans))

    @property
    def has_chunks(self) -> bool:
        """Whether chunks can be compared; the first schema's bundles hold no reference of them."""
        held = any(entry.kind == FileKind.REFERENCE_CHUNKS for entry in self.manifest.artifacts)
        return self.manifest.head is HeadName.CHUNKS and (held or self.manifest.schema_minor > 0)


def verify(bundle: Path) -> Verification:
    """Re-hash every file, run what the gate ran again and compare it with what was recorded.

    The vectors are compared with the reference's, which the bundle holds, so this needs neither
    the checkpoint nor torch (and leaves out what only torch runs here: a BF16 portable graph, and
    what engines would compute). The engine is run where the GPU is that it was built for, whether
    or not the gate had that GPU.
    Raises :class:`GateError` where anything differs.
    """
    manifest = check_hashes(bundle)
    record = read_parity(bundle / manifest.artifact(FileKind.PARITY).path)
    published = _Published(bundle, manifest, record)
    _require_same_gate(published)
    tokenizer = load_tokenizer(bundle, manifest)
    reference = _recorded_reference(published, tokenizer)
    executors, not_run = _runnable(published)
    graphs = [row for row in executors if row.engine is None]
    verdict = _judge_again(published, tokenizer, reference, graphs)
    for row in (row for row in executors if row.engine is not None):
        try:
            verdict = verdict.joined(_judge_again(published, tokenizer, reference, [row]))
        except MissingError as error:  # its GPU is there, its library or a driver for it is not
            not_run |= dict.fromkeys(_labels(record, row.report_label), one_line(str(error)))
    if unknown := record.graphs.keys() - verdict.reports.keys() - not_run.keys():
        raise InputError(
            f"{published.parity_file}: records {shown(min(unknown))}, which the gate does not "
            f"compare; {published.builder}"
        )
    for label, report in verdict.reports.items():
        _require_as_recorded(published, label, report, verdict.losses.get(label, ()))
    return Verification(verdict, not_run)


def _require_same_gate(published: _Published) -> None:
    """What is compared must be what was: the same texts, by as many executors, as strictly."""
    gate = published.manifest.gate
    if published.record.texts_sha256 != texts_sha256(gate):
        raise InputError(f"{published.folder}: built with other parity texts; {published.builder}")
    for row in gate_executors(published.manifest):
        label = row.report_label
        if label in published.record.executors and label not in published.record.graphs:
            raise _unrecorded(published, label)
    for label in published.emulated:
        if label not in published.record.graphs:
            raise _unrecorded(published, label)
    gates = (gate.min_cosine, gate.mean_cosine)
    for label, report in published.record.graphs.items():
        mean = report.threshold if report.mean_threshold is None else report.mean_threshold
        if (report.threshold, mean) != gates:
            raise InputError(
                f"{published.parity_file}: {shown(label)} was judged by cosines of "
                f"{report.threshold} and {mean} on average, expected {gates[0]} and "
                f"{gates[1]}; {published.builder}"
            )


def _unrecorded(published: _Published, label: str) -> InputError:
    return InputError(f"{published.parity_file}: no record of {label}; {published.builder}")


def _recorded_reference(published: _Published, tokenizer: TextTokenizer) -> Reference:
    texts = recorded_texts(published.manifest, published.record, tokenizer)
    if texts is None:
        raise _other_texts(published, tokenizer)
    hidden, chunks = published.manifest.dimensions[-1], None
    vectors = read_vectors(published.file(FileKind.REFERENCE), (len(texts), hidden))
    if published.has_chunks:
        shape = (CHUNKS * len(texts_in_chunks(texts)), hidden)
        chunks = read_vectors(published.file(FileKind.REFERENCE_CHUNKS), shape)
    first = next(iter(published.record.graphs.values()))
    return Reference(texts=texts, vectors=vectors, name=first.reference, chunks=chunks)


def recorded_texts(
    manifest: Manifest, record: ParityRecord, tokenizer: TextTokenizer
) -> list[ParityText] | None:
    """The gate's texts, where they are the recorded ones; None where no such bundle has those.

    The record does not say which of its build's bundles this is; that tells by how many texts
    there are and which (:func:`export.gate.texts.gate_texts`).
    """
    recorded = [(text.task, text.name) for text in next(iter(record.graphs.values())).texts]
    looks = 1 if record.quantisation is None else record.quantisation.looks
    further = [t for look in range(1, looks) for t in look_texts(manifest, tokenizer, look)]
    for position in range(1 + THINNING):
        texts = gate_texts(manifest, tokenizer, record.parity_tokens, position) + further
        if [(text.task, text.name) for text in texts] == recorded:
            return texts
    return None


def _other_texts(published: _Published, tokenizer: TextTokenizer) -> InputError:
    texts = gate_texts(published.manifest, tokenizer, published.record.parity_tokens)
    known = {(text.task, text.name) for text in texts}
    place = f"{published.parity_file}: "
    for entry in next(iter(published.record.graphs.values())).texts:
        if (entry.task, entry.name) not in known:
            return InputError(
                f"{place}text {shown(entry.name)} of task {shown(entry.task)} is none of the "
                f"gate's; {published.builder}"
            )
    return InputError(f"{place}its texts are some of the gate's, not all; {published.builder}")


def _labels(record: ParityRecord, executor: str) -> set[str]:
    """Those of an executor's comparisons, all orders and lengths."""
    return {executor, *(label for label in record.graphs if label.split(", ")[0] == executor)}


def _runnable(published: _Published) -> tuple[list[Executor], dict[str, str]]:
    """The executors to judge again, and why the gate's other reports cannot be computed here."""
    manifest, recorded = published.manifest, published.record.graphs
    speaker = gate_executors(manifest)[0].report_label
    judged = {speaker, *published.record.executors, *recorded}
    by_torch = {row.report_label for row in judging_executors(manifest, TRACED)}
    by_torch.update(published.emulated)
    executors: list[Executor] = []
    not_run: dict[str, str] = {}
    for row in judging_executors(manifest, EXECUTORS):
        if row.report_label in judged or row.engine is not None:
            executors.append(row)
        else:
            not_run[row.report_label] = _NOT_JUDGED
    absent = _ENGINES - {row.report_label for row in executors}
    for label, report in recorded.items():
        kind, *rest = label.split(", ")
        if kind in absent:
            not_run[label] = f"it was executed by {report.executed}, and that GPU is not here"
        elif kind in by_torch:
            not_run[label] = f"it was executed by {report.executed}, which verify does without"
        elif "chunks" in rest and not published.has_chunks:
            not_run[label] = _WITHOUT_CHUNKS
    return executors, not_run


def _judge_again(
    published: _Published,
    tokenizer: TextTokenizer,
    reference: Reference,
    executors: list[Executor],
) -> Verdict:
    try:
        verdict = judge(published.folder, published.manifest, tokenizer, reference, executors)
    except (InputError, MissingError):
        raise
    except (AdaptrtError, LookupError, TypeError, ValueError) as error:
        # The executor's refusal, or names and shapes that differ.
        raise GateError(
            f"{published.folder}: a graph does not run, or its inputs or outputs are not those of "
            f"such a bundle ({one_line(str(error))}); copy the bundle again or build it anew"
        ) from error
    if verdict.failure is not None:
        raise GateError(f"{published.folder}: {verdict.failure}")
    return verdict


def _require_as_recorded(
    published: _Published, label: str, report: ParityReport, losses: Sequence[Loss]
) -> None:
    """CPUs round differently; a change of half the gate's own margin is another model.

    A loss in doubt here was decided where the bundle was built; it may be a limit's size off.
    """
    if (before := published.record.graphs.get(label)) is None:
        if label.split(", ")[0] in _ENGINES - set(published.record.executors):
            return  # the gate had not its GPU; it passed
        raise _unrecorded(published, label)
    margin, mean_margin = (1 - report.threshold) / 2, (1 - report.mean_threshold) / 2
    figures = [
        ("minimum cosine", report.min_cosine, before.min_cosine, margin),
        ("mean cosine", report.mean_cosine, before.mean_cosine, mean_margin),
    ]
    for now in losses:
        then = _recorded_loss(published, label, now)
        figures.append((f"loss of {now.figure}", now.loss, then.loss, now.limit))
    for name, value, expected, allowed in figures:
        if abs(value - expected) > allowed:
            raise GateError(
                f"{published.folder}: {name} of {label} {value:.7f}, the bundle recorded "
                f"{expected:.7f}"
            )


def _recorded_loss(published: _Published, label: str, now: Loss) -> Loss:
    quantisation = published.record.quantisation
    recorded = () if quantisation is None else quantisation.losses.get(label, ())
    for then in recorded:
        if (then.figure, then.task) == (now.figure, now.task):
            return then
    raise _unrecorded(published, f"{label}'s {now.figure}")
