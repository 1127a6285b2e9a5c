"""Runs a staged bundle's graphs against the reference and writes ``parity.json``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle.plan import BundlePlan
from export.bundle.staging import write_json
from export.checkpoint.reader import Checkpoint
from export.console.progress import stage
from export.gate.chunks import embed_chunks, some_texts
from export.gate.compare import ParityText, embed, parity_texts, row_cosines, texts_sha256, thin
from export.gate.judge import Case, Verdict, judge, kinds_of, needs_torch
from export.gate.retrieval import gate_files, held_back_texts, retrieval_texts
from export.graph.trace import PortableGraph
from export.spec import BuildSpec
from runtimes.arrays import Vectors
from runtimes.bundle_files import CHUNKS_FILE, PARITY_FILE, REFERENCE_FILE
from runtimes.choices import GraphKind, HeadName, Interface
from runtimes.executors.base import Runtime
from runtimes.heads import PooledTokens
from runtimes.text.tokens import TextTokenizer

_NOISE_TEXTS = 8


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
    files: dict[GraphKind, str]
    spec: BuildSpec
    plan: BundlePlan
    checkpoint: Checkpoint
    tokenizer: TextTokenizer
    index: int

    def run(self, graph: PortableGraph) -> Verdict:
        """Compare every graph; raises :class:`GateError` at the first that does not agree."""
        reference = self.reference
        np.save(self.folder / REFERENCE_FILE, reference.vectors)
        if reference.chunks is not None:
            np.save(self.folder / CHUNKS_FILE, reference.chunks)
        verdict = judge(self._case(), lambda kind: self._executor(GraphKind(kind), graph))
        return replace(verdict, noise=reference.noise)

    def write(self, verdict: Verdict, **more: Any) -> None:
        """Write ``parity.json``."""
        write_json(
            self.folder / PARITY_FILE,
            {
                "texts_sha256": texts_sha256(*gate_files(self.spec.scheme)),
                "parity_tokens": self.spec.parity_tokens,
                "reference_bf16_min_cosine": verdict.noise,
                "graphs": {
                    k: r.summary() | {"texts": [vars(t) for t in r.texts]}
                    for k, r in verdict.reports.items()
                },
            }
            | more,
        )

    def _case(self) -> Case:
        reference, spec = self.reference, self.spec
        return Case(
            texts=self.texts,
            vectors=reference.vectors,
            chunks=reference.chunks,
            reference=reference.name,
            tokenizer=self.tokenizer,
            kinds=kinds_of(spec.target, self.files),
            precision=spec.precision,
            interface=self.plan.form.interface,
            head=self.plan.form.head,
            least=self.checkpoint.config.dimensions[0],
        )

    @cached_property
    def texts(self) -> list[ParityText]:
        """The gate's texts of every verified task; INT8's held-back ones are many more."""
        texts: list[ParityText] = []
        for number, task in enumerate(self.plan.verified_tasks):
            prefix = self.plan.prefixes[task]
            mine = parity_texts(self.tokenizer, prefix, self.spec.parity_tokens)
            if self.index + number > 0:
                mine = thin(mine, self.index + number)
            if self.spec.scheme.gates_retrieval:
                held = held_back_texts(self.tokenizer, prefix)
                if self.index + number > 0:
                    held = thin(held, self.index + number)
                mine += held + retrieval_texts(self.tokenizer, prefix, task, self.plan.tasks)
            task_id = self.plan.task_id(task)
            texts += [replace(text, task=task, task_id=task_id) for text in mine]
        return texts

    def _executor(self, kind: GraphKind, graph: PortableGraph) -> Runtime:
        """ONNX Runtime, or the traced module."""
        spec = self.spec
        if needs_torch(kind, spec.precision):
            from export.graph.encoder import load_encoder
            from runtimes.executors.torch_reference import TorchModule

            return TorchModule(
                load_encoder(
                    self.checkpoint.config,
                    graph.dtype,
                    spec.limits.max_tokens,
                    self.folder,
                    graph.slots,
                    self.plan.form,
                ),
                self.plan.form.output.name,
                inputs=[tensor.name for tensor in self.plan.form.inputs],
            )
        from runtimes.executors.ort import OrtRuntime

        runtime = OrtRuntime(self.folder / self.files[kind])
        official = self.plan.form.interface is Interface.OFFICIAL
        return PooledTokens(runtime) if official else runtime

    @cached_property
    def reference(self) -> Reference:
        """The reference on the gate's texts, task by task."""
        import torch

        from export.gate.reference import reference_model
        from runtimes.executors.torch_reference import FlashReference, reference_settings

        texts = self.texts
        vectors: dict[int, Vectors] = {}
        chunks: list[Vectors] = []
        name, noise = "", 1.0
        for number, task in enumerate(self.plan.verified_tasks):
            chosen = [i for i, t in enumerate(texts) if t.task == task]
            plain = [replace(texts[i], task_id=None) for i in chosen]
            with stage(f"reference {task}"):
                model = reference_model(self.checkpoint, task)
                reference = FlashReference(
                    model, **reference_settings(self.spec.scheme.reference_dtype)
                )
                found = embed(reference, plain, self.tokenizer)
            name = reference.name
            vectors |= dict(zip(chosen, found, strict=True))
            if self.plan.form.head is HeadName.CHUNKS:
                chunks.append(embed_chunks(reference, some_texts(plain), self.tokenizer))
            if number == 0:
                stored = FlashReference(model, device=reference.device, dtype=torch.bfloat16)
                rounded = embed(stored, plain[:_NOISE_TEXTS], self.tokenizer)
                noise = float(row_cosines(found[: len(rounded)], rounded).min())
        return Reference(
            np.stack([vectors[i] for i in range(len(texts))]),
            name,
            noise,
            np.concatenate(chunks) if chunks else None,
        )
