"""The comparisons of a bundle's graphs with its reference: one list for the gate and ``verify``.

The gate computes the reference and judges a staged bundle; ``verify`` reads both from a published
one. What is compared, in which batches and how strictly, is here alone.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from calibration.retrieval import Retrieval
from export.console.progress import stage
from export.gate.chunks import chunk_texts, embed_chunks, some_texts
from export.gate.compare import ParityReport, ParityText, compare, embed, require
from export.gate.retrieval import require_retrieval
from runtimes.arrays import Vectors
from runtimes.choices import GraphKind, HeadName, Interface, Precision, Target
from runtimes.embedder import truncate
from runtimes.executors.base import Runtime
from runtimes.heads import ChunkHead
from runtimes.schemes import SCHEMES
from runtimes.text.tokens import TextTokenizer


@dataclass(frozen=True)
class Verdict:
    """Reports by name, the one that speaks for the target first; all passed.

    ``noise`` is the reference's own BF16-to-FP32 cosine (the least of some texts): what serving
    the checkpoint in its stored type costs. ``retrieval`` has INT8's figures by report and task.
    """

    reports: dict[str, ParityReport] = field(default_factory=dict)
    noise: float = 1.0
    retrieval: dict[str, dict[str, Retrieval]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What graphs are held against: the reference's vectors of ``texts``, row by row.

    ``chunks`` are those of :func:`export.gate.chunks.some_texts`, where a chunk head has them.
    ``kinds`` are the graphs to compare, the one that speaks for the target first.
    """

    texts: Sequence[ParityText]
    vectors: Vectors
    chunks: Vectors | None
    reference: str  # its name
    tokenizer: TextTokenizer
    kinds: tuple[str, ...]  # of :class:`export.lowering.pipelines.Kind`, which needs onnx
    precision: Precision
    interface: Interface
    head: HeadName
    least: int  # the shortest Matryoshka length


def kinds_of(target: Target, present: Collection[str]) -> tuple[str, ...]:
    """The graphs that are compared, of those that are there.

    Without a GPU the portable graph, the very types of the engine, speaks for it.
    """
    first = {
        Target.ONNXRUNTIME: ("onnxruntime", "portable"),
        Target.TENSORRT10: ("primitive", "onnxruntime"),
    }.get(target, ("portable", "onnxruntime"))
    return tuple(kind for kind in first if kind in present)


def needs_torch(kind: str, precision: Precision) -> bool:
    """Whether a graph is compared as the traced module: ONNX Runtime's CPU lacks its type."""
    return not SCHEMES[precision].runs_on_cpu and kind != GraphKind.ONNXRUNTIME


def judge(case: Case, open_graph: Callable[[str], Runtime | None]) -> Verdict:
    """Compare every graph that ``open_graph`` opens (None: it cannot be run here).

    Raises :class:`GateError` at the first that does not agree.
    """
    verdict = Verdict()
    for kind in case.kinds:
        opened = open_graph(kind)
        if opened is None:
            continue
        with ChunkHead(opened) if case.head is HeadName.CHUNKS else opened as runtime:
            for label, order in _passes(case, kind):
                with stage(f"parity {label}"):
                    vectors = _embed_in(order, runtime, case.texts, case.tokenizer)
                both = (case.vectors, vectors)
                _compare(case, verdict, label, runtime.name, case.texts, both, rank=True)
            if case.chunks is not None:
                cut = some_texts(case.texts)
                label = f"{kind}, chunks"
                with stage(f"parity {label}"):
                    both = (case.chunks, embed_chunks(runtime, cut, case.tokenizer))
                _compare(case, verdict, label, runtime.name, chunk_texts(cut), both)
        gc.collect()
    return verdict


def _passes(case: Case, kind: str) -> Iterator[tuple[str, list[list[int]]]]:
    """Orders to run the texts in: all together, tasks mixed; on the first graph also apart."""
    apart: dict[str, list[int]] = {}
    for index, text in enumerate(case.texts):
        apart.setdefault(text.task, []).append(index)
    if case.interface is Interface.OFFICIAL:
        yield kind, list(apart.values())  # all its scalar task_id can say
        return
    yield kind, [list(range(len(case.texts)))]
    if len(apart) > 1 and kind == case.kinds[0]:
        yield f"{kind}, one task at a time", list(apart.values())


def _compare(
    case: Case,
    verdict: Verdict,
    label: str,
    executed: str,
    texts: Sequence[ParityText],
    both: tuple[Vectors, Vectors],
    *,
    rank: bool = False,
) -> None:
    """The reference's and our vectors at the full length.

    A scheme that gates retrieval is compared at the shortest too, and has to keep the ranking of
    the texts' retrieval pairs (``rank``).
    """
    scheme = SCHEMES[case.precision]
    full = case.vectors.shape[1]
    for width in dict.fromkeys((full, case.least) if scheme.gates_retrieval else (full,)):
        name = label if width == full else f"{label}, {width} dimensions"
        exact, ours = (truncate(vectors, width) for vectors in both)
        report = compare(
            exact,
            ours,
            texts,
            names={"reference": case.reference, "executed": executed},
            threshold=scheme.min_cosine,
            mean_threshold=scheme.mean_cosine,
        )
        require(report, name)
        verdict.reports[name] = report
        if scheme.gates_retrieval and rank:
            verdict.retrieval[name] = require_retrieval(exact, ours, texts, name)


def _embed_in(
    groups: list[list[int]], runtime: Runtime, texts: Sequence[ParityText], tokenizer: TextTokenizer
) -> Vectors:
    """Vectors in the texts' order, computed group by group."""
    vectors: dict[int, Vectors] = {}
    for group in groups:
        found = embed(runtime, [texts[i] for i in group], tokenizer)
        vectors |= dict(zip(group, found, strict=True))
    return np.stack([vectors[i] for i in range(len(texts))])
