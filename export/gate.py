"""Runs a staged bundle's graphs against the reference and writes ``parity.json``."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from export.bundle import write_json
from export.checkpoint import Checkpoint
from export.chunk_parity import chunk_texts, embed_chunks, some_texts
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
from runtimes.embedder import Vectors
from runtimes.tokens import TextTokenizer

REFERENCE_FILE = "reference.npy"
PARITY_FILE = "parity.json"
_NOISE_TEXTS = 8


@dataclass(frozen=True)
class Verdict:
    """Reports by name, the one that speaks for the target first; all passed.

    ``noise`` is the reference's own BF16-to-FP32 cosine (the least of some texts): what serving
    the checkpoint in its stored type costs.
    """

    reports: dict[str, ParityReport]
    noise: float


@dataclass(frozen=True)
class Gate:
    """What is verified: a plan, staged in ``folder``. ``index`` counts the build's bundles."""

    folder: Path
    files: dict[Kind, str]
    spec: BuildSpec
    plan: BundlePlan
    checkpoint: Checkpoint
    tokenizer: TextTokenizer
    graph: PortableGraph
    index: int

    def run(self) -> Verdict:
        """Compare every graph; raises :class:`GateError` at the first that does not agree."""
        texts = self._texts()
        reference, name, noise, chunks = self._reference(texts)
        np.save(self.folder / REFERENCE_FILE, reference)
        reports: dict[str, ParityReport] = {}
        for kind in self._kinds():
            with self._open(kind) as runtime:
                for label, order in self._passes(kind, texts):
                    vectors = _embed_in(order, runtime, texts, self.tokenizer)
                    names = {"reference": name, "executed": runtime.name}
                    threshold = self.spec.precision.min_cosine
                    report = compare(reference, vectors, texts, names=names, threshold=threshold)
                    require(report, label)
                    reports[label] = report
                if chunks is not None:
                    self._compare_chunks(runtime, chunks, texts, kind, reports)
            gc.collect()
        write_json(self.folder / PARITY_FILE, {
            "texts_sha256": texts_sha256(),
            "parity_tokens": self.spec.parity_tokens,
            "reference_bf16_min_cosine": noise,
            "graphs": {k: r.summary() | {"texts": [vars(t) for t in r.texts]}
                       for k, r in reports.items()},
        })  # fmt: skip
        return Verdict(reports, noise)

    def _compare_chunks(
        self,
        runtime: Runtime,
        reference: Vectors,
        texts: list[ParityText],
        kind: Kind,
        reports: dict[str, ParityReport],
    ) -> None:
        cut = some_texts(texts)
        label = f"{kind.value}, chunks"
        names = {"reference": next(iter(reports.values())).reference, "executed": runtime.name}
        report = compare(
            reference, embed_chunks(runtime, cut, self.tokenizer), chunk_texts(cut),
            names=names, threshold=self.spec.precision.min_cosine,
        )  # fmt: skip
        require(report, label)
        reports[label] = report

    def _texts(self) -> list[ParityText]:
        texts: list[ParityText] = []
        for number, task in enumerate(self.plan.verified_tasks):
            prefix = self.plan.prefixes[task]
            mine = parity_texts(self.tokenizer, prefix, self.spec.parity_tokens)
            if self.index + number > 0:
                mine = thin(mine, self.index + number)
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

    def _open(self, kind: Kind) -> Runtime:
        runtime = self._executor(kind)
        return ChunkHead(runtime) if self.plan.form.head is Head.CHUNKS else runtime

    def _executor(self, kind: Kind) -> Runtime:
        """An executor; BF16, which ONNX Runtime's CPU lacks, runs as the traced module."""
        spec = self.spec
        if kind is not Kind.ONNXRUNTIME and spec.precision is Precision.BF16:
            from export.encoder import load_encoder
            from runtimes.torch_reference import TorchModule

            return TorchModule(load_encoder(
                self.checkpoint.config, self.graph.dtype, spec.limits.max_tokens,
                self.folder, self.graph.slots, self.plan.form,
            ), self.plan.form.output_name)  # fmt: skip
        from runtimes.ort import OrtRuntime, PooledOrtRuntime

        official = self.plan.form.interface is Interface.OFFICIAL
        runtime = PooledOrtRuntime if official else OrtRuntime
        return runtime(self.folder / self.files[kind])

    def _reference(self, texts: list[ParityText]) -> tuple[Vectors, str, float, Vectors | None]:
        """The reference's vectors, its name, its own BF16-to-FP32 cosine on some texts, chunks."""
        import torch

        from export.reference import reference_model
        from runtimes.torch_reference import FlashReference, reference_settings

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
        cut_vectors = np.concatenate(chunks) if chunks else None
        return np.stack([vectors[i] for i in range(len(texts))]), name, noise, cut_vectors


def _embed_in(
    groups: list[list[int]], runtime: Runtime, texts: list[ParityText], tokenizer: TextTokenizer
) -> Vectors:
    """Vectors in the texts' order, computed group by group."""
    vectors: dict[int, Vectors] = {}
    for group in groups:
        found = embed(runtime, [texts[i] for i in group], tokenizer)
        vectors |= dict(zip(group, found, strict=True))
    return np.stack([vectors[i] for i in range(len(texts))])
