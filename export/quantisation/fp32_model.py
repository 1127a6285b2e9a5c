"""The FP32 model, written once into a temporary folder, and texts to run it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calibration.stratify import Sample
from export.graph.encoder import Encoder, load_encoder
from export.graph.trace import PortableGraph, trace
from export.graph.weights import write_weights
from export.quantisation.subject import Subject
from runtimes.text.tokens import Tokens, shorten


@dataclass(frozen=True)
class Batch:
    """Texts that are run at once; ``task_ids`` is None where the graph has one task."""

    tokens: Tokens
    task_ids: Sequence[int] | None


def write_fp32(subject: Subject, folder: Path) -> PortableGraph:
    """The weights go into ``folder``, laid out as the graph says."""
    limits, config = subject.spec.limits, subject.checkpoint.config
    graph = trace(config, "float32", limits.max_batch, limits.max_tokens, subject.form)
    write_weights(folder, graph.slots, subject.plan.contents, limits.max_tokens)
    return graph


def open_fp32(subject: Subject, folder: Path, graph: PortableGraph) -> Encoder:
    """The traced module, its weights mapped from what :func:`write_fp32` wrote."""
    tokens = subject.spec.limits.max_tokens
    config = subject.checkpoint.config
    return load_encoder(config, "float32", tokens, folder, graph.slots, subject.form)


def short_batch(subject: Subject, samples: Sequence[Sample], count: int, tokens: int) -> Batch:
    """``count`` texts of about ``tokens`` tokens, evenly chosen over tasks and languages.

    None is longer than twice as many.
    """
    ranked = sorted(samples, key=lambda s: abs(len(s.ids) - tokens))[: 4 * count]
    chosen = ranked[:: max(1, len(ranked) // count)][:count]
    padded = subject.tokenizer.pad([shorten(s.ids, 2 * tokens) for s in chosen])
    ids = subject.task_ids
    return Batch(padded, None if ids is None else [ids[s.task] for s in chosen])
