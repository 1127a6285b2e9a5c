"""The chunk head's part of the gate: each text cut in three, and one chunk that overlaps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from export.gate.compare import batch_inputs, batches
from export.gate.quality_texts import side_of
from export.gate.texts import ParityText, thin
from runtimes.arrays import Vectors
from runtimes.executors.base import Runtime
from runtimes.heads import CHUNK_EMBEDDING, CHUNK_WEIGHTS
from runtimes.tensors import INPUT_IDS
from runtimes.text.tokens import TextTokenizer

CHUNKS = 4  # of each text


def texts_in_chunks(texts: Sequence[ParityText]) -> list[ParityText]:
    """The texts of which chunks are compared: every third one and a document of each task.

    Not those that quality is judged by.
    """
    texts = [text for text in texts if side_of(text.name) is None]
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
    vectors: dict[int, Vectors] = {}
    for batch in batches(texts):
        inputs = batch_inputs(texts, batch, tokenizer)
        width = inputs[INPUT_IDS.name].shape[1]
        weights = np.stack([chunk_weights(len(texts[i].ids), width) for i in batch])
        rows = runtime.run({**inputs, CHUNK_WEIGHTS.name: weights})[CHUNK_EMBEDDING.name]
        vectors |= dict(zip(batch, rows, strict=True))
    return np.concatenate([vectors[i] for i in range(len(texts))])


def chunk_names(texts: Sequence[ParityText]) -> list[ParityText]:
    """A name per row of :func:`embed_chunks`."""
    return [replace(t, name=f"{t.name} chunk {n}") for t in texts for n in range(CHUNKS)]
