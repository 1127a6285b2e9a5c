"""The chunk head's part of the gate: each text cut in three, and one chunk that overlaps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from export.gate.compare import ParityText, batches, thin
from runtimes.arrays import Vectors
from runtimes.executors.base import Runtime
from runtimes.text.tokens import TextTokenizer

CHUNKS = 4


def some_texts(texts: Sequence[ParityText]) -> list[ParityText]:
    """Every third text and a document of each task, task by task."""
    tasks = dict.fromkeys(text.task for text in texts)
    return [t for task in tasks for t in thin([x for x in texts if x.task == task], 0)]


def chunk_weights(tokens: int, width: int) -> Vectors:
    """``[CHUNKS, width]``: thirds of a text of so many tokens (3 at least), then its middle half.

    Columns from ``tokens`` on are zero: padding.
    """
    bounds = np.linspace(0, tokens, 4).round().astype(int)
    spans = [*pairwise(bounds), (tokens // 4, tokens - tokens // 4)]
    weights = np.zeros((CHUNKS, width), np.float32)
    for row, (start, end) in zip(weights, spans, strict=True):
        row[start:end] = 1 / (end - start)
    return weights


def embed_chunks(
    runtime: Runtime, texts: Sequence[ParityText], tokenizer: TextTokenizer
) -> Vectors:
    """``[texts × CHUNKS, hidden]``, computed in padded batches."""
    found: dict[int, Vectors] = {}
    for batch in batches(texts):
        tokens = tokenizer.pad([texts[i].ids for i in batch])
        inputs = dict(tokens.inputs())
        width = inputs["input_ids"].shape[1]
        weights = np.stack([chunk_weights(len(texts[i].ids), width) for i in batch])
        if texts[batch[0]].task_id is not None:
            inputs["task_id"] = np.array([texts[i].task_id for i in batch], np.int64)
        vectors = runtime.run({**inputs, "chunk_weights": weights})["chunk_embedding"]
        found |= dict(zip(batch, vectors, strict=True))
    return np.concatenate([found[i] for i in range(len(texts))])


def chunk_texts(texts: Sequence[ParityText]) -> list[ParityText]:
    """A name per row of :func:`embed_chunks`."""
    return [replace(t, name=f"{t.name} chunk {n}") for t in texts for n in range(CHUNKS)]
