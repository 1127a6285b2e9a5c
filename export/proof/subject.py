"""What is proved: a bundle, its checkpoint, the texts, and everything here that can run it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from export.checkpoint.reader import Checkpoint
from export.engines.plan_file import bundle_plans
from export.gate.emulated import emulated_executors
from export.gate.traced import TRACED, gate_executors
from export.proof.records import VERSION, Executed, Word
from export.proof.texts import ProofTexts
from runtimes.bundle_files import MANIFEST_FILE
from runtimes.choices import GraphKind, Target
from runtimes.errors import MissingError, one_line
from runtimes.manifest import Artifact, Manifest
from runtimes.open import Executor, judged_file, open_runtime
from runtimes.text.tokens import TextTokenizer

# Their attention holds scores of all pairs of tokens, or they compute product by product.
_BESIDE_TOKENS, _EMULATED_TOKENS = 2048, 512
_LEAN = (GraphKind.ONNXRUNTIME, GraphKind.OPENVINO)


@dataclass(frozen=True, kw_only=True)
class Runner:
    """One executor of the bundle, and the longest text that it is given."""

    executor: Executor
    word: Word
    longest: int

    @property
    def label(self) -> str:
        """What the report calls it."""
        return self.executor.report_label


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A bundle with all that its proof needs.

    The first of ``runners`` is the one that every section runs: the engine where its GPU is, else
    the graph that speaks for it. ``absent`` are engines whose GPU is here but not what runs them.
    """

    folder: Path
    manifest: Manifest
    tokenizer: TextTokenizer
    checkpoint: Checkpoint
    texts: ProofTexts
    runners: tuple[Runner, ...]
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def speaker(self) -> Runner:
        """What every section runs."""
        return self.runners[0]

    @property
    def key(self) -> str:
        """Names the kept work: of these files, texts and executors, and of this way to prove."""
        adapter = self.checkpoint.adapter_task or ""
        rows = [f"{r.label}:{r.longest}" for r in self.runners]
        named = [str(VERSION), adapter, self.texts.task, str(self.texts.longest), *rows]
        digest = hashlib.sha256((self.folder / MANIFEST_FILE).read_bytes())
        digest.update("\n".join(named).encode())
        return digest.hexdigest()[:16]


def find_runners(
    folder: Path, manifest: Manifest, longest: int
) -> tuple[tuple[Runner, ...], dict[str, str]]:
    """Everything that can run the bundle here, what speaks for it first; and why engines cannot.

    An engine is opened once to see.
    """
    graphs, engines = [], []
    absent: dict[str, str] = {}
    for row in gate_executors(manifest):
        if row.engine is None:
            graphs.append(row)
        elif (why := _why_not(folder, manifest, row)) is None:
            engines.append(row)
        else:
            absent[row.report_label] = why
    traced = {row.name for row in TRACED.values()}
    found = [Runner(executor=row, word=Word.RUN, longest=longest) for row in engines]
    for row in graphs:
        first = not found
        lean = first or row.graph in _LEAN
        word = Word.TRACED if row.name in traced else Word.RUN
        most = longest if lean else min(longest, _BESIDE_TOKENS)
        found.append(Runner(executor=row, word=word, longest=most))
    for row in emulated_executors(bundle_plans(folder, manifest)):
        most = min(longest, _EMULATED_TOKENS)
        found.append(Runner(executor=row, word=Word.EMULATED, longest=most))
    return tuple(found), absent


def _why_not(folder: Path, manifest: Manifest, row: Executor) -> str | None:
    try:
        open_runtime(folder, manifest, row).close()
    except MissingError as error:
        return one_line(str(error))
    return None


def executed(subject: Subject, names: dict[str, str]) -> tuple[Executed, ...]:
    """What happened to each graph and engine; ``names`` are those of runtimes by label."""
    manifest = subject.manifest
    found = [
        Executed(
            label=runner.label,
            file=_file(runner, manifest),
            word=runner.word,
            by=names.get(runner.label, ""),
            longest=runner.longest,
            note=_note(runner, subject.texts.longest),
        )
        for runner in subject.runners
        if runner.label in names
    ]
    seen = {entry.file for entry in found if entry.word is not Word.EMULATED}
    kinds = {kind.value for kind in (*GraphKind, *Target)}
    for entry in manifest.artifacts:
        if entry.kind in kinds and entry.path not in seen:
            label = entry.kind if entry.gpu is None else f"{entry.kind} engine, {entry.gpu}"
            note = subject.absent.get(entry.kind) or _not_here(entry)
            found.append(Executed(label=label, file=entry.path, word=Word.BUILT, by="", note=note))
    return tuple(found)


def _file(runner: Runner, manifest: Manifest) -> str:
    file = judged_file(runner.executor, manifest)
    return "" if file is None else file.path


def _note(runner: Runner, longest: int) -> str:
    if runner.longest >= longest:
        return ""
    return "slow" if runner.word is Word.EMULATED else "its attention needs memory for all pairs"


_ELSEWHERE = {
    GraphKind.ONNXRUNTIME_CUDA.value: "needs an NVIDIA GPU",
    GraphKind.TENSORRT.value: "engines are built from it",
    GraphKind.PRIMITIVE.value: "for TensorRT 10, on a Jetson",
}


def _not_here(entry: Artifact) -> str:
    if entry.gpu:
        return f"needs a GPU of {entry.gpu}"
    return _ELSEWHERE.get(entry.kind, "nothing here runs it")
