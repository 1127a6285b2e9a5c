"""``adaptrt verify``: is a bundle still what was built, and does it still agree?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from calibration.retrieval import Retrieval
from export.bundle.staging import check_hashes
from export.gate.chunks import CHUNKS, some_texts
from export.gate.compare import ParityReport, ParityText, parity_texts, texts_sha256
from export.gate.judge import Case, Verdict, judge, kinds_of, needs_torch
from export.gate.parity_file import Recorded, read_recorded, read_vectors
from export.gate.retrieval import (
    MIN_NDCG,
    MIN_OVERLAP,
    gate_files,
    held_back_texts,
    retrieval_texts,
)
from runtimes.choices import AdapterMode, HeadName, Interface
from runtimes.embedder import load_tokenizer
from runtimes.errors import AdaptrtError, GateError, InputError, MissingError, one_line, shown
from runtimes.executors.base import Runtime
from runtimes.executors.ort import OrtRuntime
from runtimes.heads import PooledTokens
from runtimes.manifest import Manifest
from runtimes.schemes import SCHEMES
from runtimes.text.tokens import TextTokenizer

_WITHOUT_CHUNKS = "the bundle, built by an earlier version, holds no reference vectors of chunks"


@dataclass(frozen=True)
class Verification:
    """What was compared again and agreed, and why the rest of the gate's reports was not."""

    verdict: Verdict
    not_run: dict[str, str] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """One for each comparison of the gate."""
        for label, report in self.verdict.reports.items():
            yield (
                f"{label}: {report.rows} texts, minimum cosine {report.min_cosine:.7f} "
                f"(gate {report.threshold}), mean {report.mean_cosine:.7f}"
            )
            for task, kept in self.verdict.retrieval.get(label, {}).items():
                yield (
                    f"{label}, retrieval by {task}: nDCG@10 {kept.ndcg_ratio:.4f} of FP32's "
                    f"(gate {MIN_NDCG}), top-10 overlap {kept.overlap:.4f} (gate {MIN_OVERLAP})"
                )
        for label, reason in self.not_run.items():
            yield f"{label}: not run, {reason}"


def verify(bundle: Path) -> Verification:
    """Re-hash every file, run what the gate ran again and compare it with what was recorded.

    The vectors are compared with the reference's, which the bundle holds, so this needs neither
    the checkpoint nor torch (and leaves out a BF16 portable graph, which only torch runs here).
    Raises :class:`GateError` where anything differs.
    """
    return _Published(bundle, check_hashes(bundle)).verify()


@dataclass(frozen=True)
class _Published:
    bundle: Path
    manifest: Manifest

    def verify(self) -> Verification:
        """As :func:`verify`, whose arguments this holds."""
        self._check_gate()
        case, not_run = self._case(), self._not_run()
        try:
            verdict = judge(case, self._open)
        except GateError as error:
            reason = str(error).removesuffix("; nothing was published")
            raise GateError(f"{self.bundle}: {reason}") from error
        except (InputError, MissingError):
            raise
        except (AdaptrtError, LookupError, TypeError, ValueError) as error:
            # The executor's refusal, or names and shapes that differ.
            raise GateError(
                f"{self.bundle}: a graph does not run, or its inputs or outputs are not those of "
                f"such a bundle ({one_line(str(error))}); copy the bundle again or build it anew"
            ) from error
        if unknown := self.recorded.graphs.keys() - verdict.reports.keys() - not_run.keys():
            raise InputError(
                f"{self._file('parity')}: records {shown(min(unknown))}, which the gate does not "
                f"compare; {self._built_by}"
            )
        for label, report in verdict.reports.items():
            self._compare(label, report, verdict.retrieval.get(label, {}))
        return Verification(verdict, not_run)

    @cached_property
    def recorded(self) -> Recorded:
        return read_recorded(self._file("parity"))

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        return load_tokenizer(self.bundle, self.manifest)

    def _file(self, kind: str) -> Path:
        return self.bundle / self.manifest.artifact(kind).path

    @property
    def _built_by(self) -> str:
        version = self.manifest.versions.get("adaptrt", "of an unrecorded version")
        return f"verify with adaptrt {version}, which built it, or build the bundle again"

    def _check_gate(self) -> None:
        """What is compared must be what was: the same texts, judged as strictly."""
        scheme = SCHEMES[self.manifest.precision]
        if self.recorded.texts_sha256 != texts_sha256(*gate_files(scheme)):
            raise InputError(f"{self.bundle}: built with other parity texts; {self._built_by}")
        asked = (scheme.min_cosine, scheme.mean_cosine)
        for label, report in self.recorded.graphs.items():
            mean = report.threshold if report.mean_threshold is None else report.mean_threshold
            if (report.threshold, mean) != asked:
                raise InputError(
                    f"{self._file('parity')}: {shown(label)} was judged by cosines of "
                    f"{report.threshold} and {mean} on average, expected {asked[0]} and "
                    f"{asked[1]}; {self._built_by}"
                )

    def _case(self) -> Case:
        manifest, first = self.manifest, next(iter(self.recorded.graphs.values()))
        texts = list(self._texts())
        hidden, chunks = manifest.dimensions[-1], None
        vectors = read_vectors(self._file("reference"), (len(texts), hidden))
        if self._has_chunks:
            shape = (CHUNKS * len(some_texts(texts)), hidden)
            chunks = read_vectors(self._file("reference_chunks"), shape)
        present = {entry.kind for entry in manifest.artifacts}
        return Case(
            texts=texts,
            vectors=vectors,
            chunks=chunks,
            reference=first.reference,
            tokenizer=self.tokenizer,
            kinds=kinds_of(manifest.target.name, present),
            precision=manifest.precision,
            interface=manifest.interface,
            head=manifest.head,
            least=manifest.dimensions[0],
        )

    @property
    def _has_chunks(self) -> bool:
        """Whether chunks can be compared; the first schema's bundles hold no reference of them."""
        held = any(entry.kind == "reference_chunks" for entry in self.manifest.artifacts)
        return self.manifest.head is HeadName.CHUNKS and (held or self.manifest.schema_minor > 0)

    def _not_run(self) -> dict[str, str]:
        """The recorded reports that cannot be computed here, and why."""
        found = {}
        for label, report in self.recorded.graphs.items():
            kind, *rest = label.split(", ")
            if self._needs_torch(kind):
                found[label] = f"it was executed by {report.executed}, which verify does without"
            elif "chunks" in rest and not self._has_chunks:
                found[label] = _WITHOUT_CHUNKS
        return found

    def _needs_torch(self, kind: str) -> bool:
        return needs_torch(kind, self.manifest.precision)

    def _open(self, kind: str) -> Runtime | None:
        if self._needs_torch(kind):
            return None
        official = self.manifest.interface is Interface.OFFICIAL
        runtime = OrtRuntime(self._file(kind))
        return PooledTokens(runtime) if official else runtime

    def _texts(self) -> Iterator[ParityText]:
        """The recorded texts in their order, tokenised anew with each one's task's prefix."""
        known = {
            (task, text.name): replace(text, task=task, task_id=self._task_id(task))
            for task in self.manifest.prefixes
            for text in self._gate_texts(task)
        }
        for entry in next(iter(self.recorded.graphs.values())).texts:
            if (text := known.get((entry.task, entry.name))) is None:
                raise InputError(
                    f"{self._file('parity')}: text {shown(entry.name)} of task "
                    f"{shown(entry.task)} is none of the gate's; {self._built_by}"
                )
            yield text

    def _gate_texts(self, task: str) -> list[ParityText]:
        prefix = self.manifest.prefixes[task]
        texts = parity_texts(self.tokenizer, prefix, self.recorded.parity_tokens)
        if SCHEMES[self.manifest.precision].gates_retrieval:
            texts += held_back_texts(self.tokenizer, prefix)
            texts += retrieval_texts(self.tokenizer, prefix, task, self.manifest.tasks)
        return texts

    def _task_id(self, task: str) -> int | None:
        if self.manifest.adapter is not AdapterMode.SWITCHABLE:
            return None
        return self.manifest.tasks.index(task) if task in self.manifest.tasks else -1

    def _compare(self, label: str, report: ParityReport, retrieval: dict[str, Retrieval]) -> None:
        """CPUs round differently; a change of half the gate's own margin is another model."""
        if (before := self.recorded.graphs.get(label)) is None:
            raise InputError(f"{self._file('parity')}: no record of {label}; {self._built_by}")
        figures = [
            ("minimum cosine", report.min_cosine, before.min_cosine, (1 - report.threshold) / 2),
            (
                "mean cosine",
                report.mean_cosine,
                before.mean_cosine,
                (1 - report.mean_threshold) / 2,
            ),
        ]
        for task, now in retrieval.items():
            then = self._recorded_retrieval(label, task)
            figures += [
                (f"{task} nDCG@10", now.ndcg_ratio, then.ndcg_ratio, 1 - MIN_NDCG),
                (f"{task} overlap", now.overlap, then.overlap, 1 - MIN_OVERLAP),
            ]
        for name, found, expected, margin in figures:
            if abs(found - expected) > margin:
                raise GateError(
                    f"{self.bundle}: {name} of {label} {found:.7f}, the bundle recorded "
                    f"{expected:.7f}"
                )

    def _recorded_retrieval(self, label: str, task: str) -> Retrieval:
        quantisation = self.recorded.quantisation
        known = quantisation.retrieval if quantisation is not None else {}
        found = known.get(label, {}).get(task)
        if found is None:
            raise InputError(
                f"{self._file('parity')}: no record of {label}'s retrieval by {task}; "
                f"{self._built_by}"
            )
        return found
