"""Runs a staged bundle's graphs against the reference and writes ``parity.json``."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle import write_json
from export.checkpoint import Checkpoint
from export.chunk_parity import chunk_texts, embed_chunks, some_texts
from export.held_back import (
    gate_files,
    held_back_texts,
    require_retrieval,
    retrieval_texts,
)
from export.lowering import Kind
from export.parity import (
    ParityReport,
    ParityText,
    compare,
    embed,
    parity_texts,
    require,
    row_cosines,
    texts_sha256,
    thin,
)
from export.plan import BundlePlan
from export.spec import BuildSpec, Head, Interface, Precision, Target
from export.trace import PortableGraph
from runtimes.base import Runtime
from runtimes.chunks import ChunkHead
from runtimes.embedder import Vectors, truncate
from runtimes.tokens import TextTokenizer

REFERENCE_FILE = "reference.npy"
PARITY_FILE = "parity.json"
_NOISE_TEXTS = 8


@dataclass(frozen=True)
class Verdict:
    """Reports by name, the one that speaks for the target first; all passed.

    ``noise`` is the reference's own BF16-to-FP32 cosine (the least of some texts): what serving
    the checkpoint in its stored type costs. ``retrieval`` has INT8's figures by report and task.
    """

    reports: dict[str, ParityReport]
    noise: float
    retrieval: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """The reference's vectors of the gate's texts, its name, :class:`Verdict`'s noise, chunks."""

    vectors: Vectors
    name: str
    noise: float
    chunks: Vectors | None = None  # of a chunk head


@dataclass(frozen=True)
class Gate:
    """What is verified: a plan, staged in ``folder``. ``index`` counts the build's bundles.

    Texts and reference are computed once, however often the graphs are run.
    """

    folder: Path
    files: dict[Kind, str]
    spec: BuildSpec
    plan: BundlePlan
    checkpoint: Checkpoint
    tokenizer: TextTokenizer
    index: int

    def run(self, graph: PortableGraph) -> Verdict:
        """Compare every graph; raises :class:`GateError` at the first that does not agree."""
        verdict = Verdict({}, self.reference.noise)
        np.save(self.folder / REFERENCE_FILE, self.reference.vectors)
        for kind in self._kinds():
            with self._open(kind, graph) as runtime:
                for label, order in self._passes(kind, self.texts):
                    vectors = _embed_in(order, runtime, self.texts, self.tokenizer)
                    self._judge(verdict, label, runtime.name, vectors)
                self._compare_chunks(verdict, runtime, kind)
            gc.collect()
        return verdict

    def _compare_chunks(self, verdict: Verdict, runtime: Runtime, kind: Kind) -> None:
        """The chunk head against means of the reference's token vectors."""
        reference = self.reference
        if reference.chunks is None:
            return
        cut = some_texts(self.texts)
        label, precision = f"{kind.value}, chunks", self.spec.precision
        report = compare(
            reference.chunks, embed_chunks(runtime, cut, self.tokenizer), chunk_texts(cut),
            names={"reference": reference.name, "executed": runtime.name},
            threshold=precision.min_cosine, mean_threshold=precision.mean_cosine,
        )  # fmt: skip
        require(report, label)
        verdict.reports[label] = report

    def write(self, verdict: Verdict, **more: Any) -> None:
        """Write ``parity.json``."""
        write_json(self.folder / PARITY_FILE, {
            "texts_sha256": texts_sha256(*gate_files(self.spec.precision)),
            "parity_tokens": self.spec.parity_tokens,
            "reference_bf16_min_cosine": verdict.noise,
            "graphs": {k: r.summary() | {"texts": [vars(t) for t in r.texts]}
                       for k, r in verdict.reports.items()},
        } | more)  # fmt: skip

    def _judge(self, verdict: Verdict, label: str, executed: str, vectors: Vectors) -> None:
        """Compare at the full length, and in INT8 at the shortest Matryoshka length too."""
        precision, reference = self.spec.precision, self.reference.vectors
        int8 = precision is Precision.INT8
        names = {"reference": self.reference.name, "executed": executed}
        full, least = vectors.shape[1], self.checkpoint.config.dimensions[0]
        for width in dict.fromkeys((full, least) if int8 else (full,)):
            name = label if width == full else f"{label}, {width} dimensions"
            exact, ours = truncate(reference, width), truncate(vectors, width)
            report = compare(
                exact, ours, self.texts, names=names,
                threshold=precision.min_cosine, mean_threshold=precision.mean_cosine,
            )  # fmt: skip
            require(report, name)
            verdict.reports[name] = report
            if int8:
                verdict.retrieval[name] = require_retrieval(exact, ours, self.texts, name)

    @cached_property
    def texts(self) -> list[ParityText]:
        """The gate's texts of every verified task; INT8's held-back ones are many more."""
        texts: list[ParityText] = []
        for number, task in enumerate(self.plan.verified_tasks):
            prefix = self.plan.prefixes[task]
            mine = parity_texts(self.tokenizer, prefix, self.spec.parity_tokens)
            if self.index + number > 0:
                mine = thin(mine, self.index + number)
            if self.spec.precision is Precision.INT8:
                held = held_back_texts(self.tokenizer, prefix)
                if self.index + number > 0:
                    held = thin(held, self.index + number)
                mine += held + retrieval_texts(self.tokenizer, prefix, task, self.plan.tasks)
            task_id = self.plan.task_id(task)
            texts += [replace(text, task=task, task_id=task_id) for text in mine]
        return texts

    def _kinds(self) -> tuple[Kind, ...]:
        """Without a GPU the portable graph, the very types of the engine, speaks for it."""
        first = {
            Target.ONNXRUNTIME: (Kind.ONNXRUNTIME, Kind.PORTABLE),
            Target.TENSORRT10: (Kind.PRIMITIVE, Kind.ONNXRUNTIME),
        }.get(self.spec.target, (Kind.PORTABLE, Kind.ONNXRUNTIME))
        return tuple(kind for kind in first if kind in self.files)

    def _passes(self, kind: Kind, texts: list[ParityText]) -> Iterator[tuple[str, list[list[int]]]]:
        """Orders to run the texts in: all together, tasks mixed; on the first graph also apart."""
        tasks = self.plan.verified_tasks
        together = [list(range(len(texts)))]
        apart = [[i for i, t in enumerate(texts) if t.task == task] for task in tasks]
        if self.plan.form.interface is Interface.OFFICIAL:
            yield kind.value, apart  # one task per call is all its scalar task_id can say
            return
        yield kind.value, together
        if len(tasks) > 1 and kind is self._kinds()[0]:
            yield f"{kind.value}, one task at a time", apart

    def _open(self, kind: Kind, graph: PortableGraph) -> Runtime:
        runtime = self._executor(kind, graph)
        return ChunkHead(runtime) if self.plan.form.head is Head.CHUNKS else runtime

    def _executor(self, kind: Kind, graph: PortableGraph) -> Runtime:
        """An executor; BF16, which ONNX Runtime's CPU lacks, runs as the traced module."""
        spec = self.spec
        if kind is not Kind.ONNXRUNTIME and spec.precision is Precision.BF16:
            from export.encoder import load_encoder
            from runtimes.torch_reference import TorchModule

            return TorchModule(load_encoder(
                self.checkpoint.config, graph.dtype, spec.limits.max_tokens,
                self.folder, graph.slots, self.plan.form,
            ), self.plan.form.output_name)  # fmt: skip
        from runtimes.ort import OrtRuntime, PooledOrtRuntime

        official = self.plan.form.interface is Interface.OFFICIAL
        runtime = PooledOrtRuntime if official else OrtRuntime
        return runtime(self.folder / self.files[kind])

    @cached_property
    def reference(self) -> Reference:
        """The reference on the gate's texts, task by task."""
        import torch

        from export.reference import reference_model
        from runtimes.torch_reference import FlashReference, reference_settings

        texts = self.texts
        vectors: dict[int, Vectors] = {}
        chunks: list[Vectors] = []
        name, noise = "", 1.0
        for number, task in enumerate(self.plan.verified_tasks):
            model = reference_model(self.checkpoint, task)
            reference = FlashReference(model, **reference_settings(self.spec.precision))
            name = reference.name
            chosen = [i for i, t in enumerate(texts) if t.task == task]
            plain = [replace(texts[i], task_id=None) for i in chosen]
            found = embed(reference, plain, self.tokenizer)
            vectors |= dict(zip(chosen, found, strict=True))
            if self.plan.form.head is Head.CHUNKS:
                chunks.append(embed_chunks(reference, some_texts(plain), self.tokenizer))
            if number == 0:
                stored = FlashReference(model, device=reference.device, dtype=torch.bfloat16)
                rounded = embed(stored, plain[:_NOISE_TEXTS], self.tokenizer)
                noise = float(row_cosines(found[: len(rounded)], rounded).min())
        return Reference(
            np.stack([vectors[i] for i in range(len(texts))]), name, noise,
            np.concatenate(chunks) if chunks else None,
        )  # fmt: skip


def _embed_in(
    groups: list[list[int]], runtime: Runtime, texts: list[ParityText], tokenizer: TextTokenizer
) -> Vectors:
    """Vectors in the texts' order, computed group by group."""
    vectors: dict[int, Vectors] = {}
    for group in groups:
        found = embed(runtime, [texts[i] for i in group], tokenizer)
        vectors |= dict(zip(group, found, strict=True))
    return np.stack([vectors[i] for i in range(len(texts))])
