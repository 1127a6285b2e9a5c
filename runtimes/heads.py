"""Heads: what a graph makes of its token vectors, and how that becomes one vector per text.

A row of :data:`HEADS` says everything that is particular to a head but the pooling itself, which
:mod:`export.graph.encoder` traces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from runtimes.arrays import Arrays, Vectors
from runtimes.choices import AdapterMode, HeadName, Interface
from runtimes.executors.base import Runtime, RuntimeBase, while_open
from runtimes.tensors import (
    ATTENTION_MASK,
    BATCH,
    HIDDEN,
    INPUT_IDS,
    SENTENCE_EMBEDDING,
    SEQUENCE,
    TASK_ID,
    Axis,
    Tensor,
)
from runtimes.text.chunks import MAX_CHUNKS


class ChunkHead(RuntimeBase):
    """Gives a graph with a chunk head the encoder's contract too: one chunk over each text."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self.name, self.budget = runtime, runtime.name, runtime.budget

    @while_open
    def run(self, inputs: Arrays) -> Arrays:
        """With ``chunk_weights`` as the graph does, without them ``sentence_embedding``."""
        if CHUNK_WEIGHTS.name in inputs:
            return self._runtime.run(inputs)
        mask = inputs[ATTENTION_MASK.name].astype(np.float32)
        weights = (mask / mask.sum(axis=1, keepdims=True))[:, None]
        outputs = self._runtime.run({**inputs, CHUNK_WEIGHTS.name: weights})
        return {SENTENCE_EMBEDDING.name: outputs[CHUNK_EMBEDDING.name][:, 0]}

    def _free(self) -> None:
        self._runtime.close()


class PooledTokens(RuntimeBase):
    """Gives a graph with the official interface the encoder's contract: mean-pools outside.

    The official ``task_id`` is one number per call, so rows of different tasks run apart.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self.name, self.budget = runtime, runtime.name, runtime.budget

    @while_open
    def run(self, inputs: Arrays) -> Arrays:
        """Execute once per task among the rows."""
        mask, tasks = inputs[ATTENTION_MASK.name], inputs[TASK_ID.name]
        vectors = np.empty((0, 0), np.float32)
        for task in np.unique(tasks):
            rows = np.flatnonzero(tasks == task)
            batch = {
                INPUT_IDS.name: inputs[INPUT_IDS.name][rows],
                ATTENTION_MASK.name: mask[rows],
                TASK_ID.name: np.array(task, np.int64),
            }
            means = _means(self._runtime.run(batch)[TEXT_EMBEDS.name], mask[rows])
            if not len(vectors):
                vectors = np.empty((len(tasks), means.shape[1]), means.dtype)
            vectors[rows] = means / np.linalg.norm(means, axis=1, keepdims=True)
        return {SENTENCE_EMBEDDING.name: vectors}

    def _free(self) -> None:
        self._runtime.close()


def _means(tokens: Vectors, mask: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Vectors:
    """Token vectors ``[batch, sequence, hidden]`` → their means ``[batch, hidden]``."""
    weights = mask[..., None].astype(np.float32)
    means: Vectors = (tokens * weights).sum(axis=1) / weights.sum(axis=1)
    return means


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a graph gives. ``inputs`` are those it takes beside ids, mask and task.

    ``contract`` wraps a runtime of such graphs, so that it gives ``sentence_embedding`` for ids
    and mask alone; None where the graph itself does.
    """

    output: Tensor
    inputs: tuple[Tensor, ...] = ()
    contract: Callable[[Runtime], Runtime] | None = None

    def apply(self, runtime: Runtime) -> Runtime:
        """The runtime with the encoder's contract; closing it closes ``runtime``."""
        return runtime if self.contract is None else self.contract(runtime)


CHUNKS = Axis(name="chunks", example=3, sizes=(1, 8, MAX_CHUNKS))
CHUNK_WEIGHTS = Tensor(name="chunk_weights", dtype="float32", axes=(BATCH, CHUNKS, SEQUENCE))
CHUNK_EMBEDDING = Tensor(name="chunk_embedding", dtype="float32", axes=(BATCH, CHUNKS, HIDDEN))
LAST_HIDDEN_STATE = Tensor(
    name="last_hidden_state", dtype="float32", axes=(BATCH, SEQUENCE, HIDDEN)
)
TEXT_EMBEDS = Tensor(name="text_embeds", dtype="float32", axes=(BATCH, SEQUENCE, HIDDEN))

HEADS: Mapping[HeadName, Head] = {
    HeadName.SENTENCE: Head(output=SENTENCE_EMBEDDING),
    HeadName.CHUNKS: Head(output=CHUNK_EMBEDDING, inputs=(CHUNK_WEIGHTS,), contract=ChunkHead),
}


@dataclass(frozen=True, kw_only=True)
class GraphInterface:
    """How a switchable graph is told the tasks; ``head`` stands in for the bundle's own."""

    task_id: Tensor
    head: Head | None = None


INTERFACES: Mapping[Interface, GraphInterface] = {
    Interface.SENTENCE: GraphInterface(task_id=TASK_ID),
    Interface.OFFICIAL: GraphInterface(
        task_id=Tensor(name=TASK_ID.name, dtype=TASK_ID.dtype, axes=()),
        head=Head(output=TEXT_EMBEDS, contract=PooledTokens),
    ),
}


def head_of(interface: Interface, head: HeadName) -> Head:
    """The head of a graph: the interface's where that has one of its own."""
    return INTERFACES[interface].head or HEADS[head]


def graph_inputs(adapter: AdapterMode, interface: Interface, head: HeadName) -> tuple[Tensor, ...]:
    """What a graph takes, in its order."""
    switchable = adapter is AdapterMode.SWITCHABLE
    tasks = (INTERFACES[interface].task_id,) if switchable else ()
    return (INPUT_IDS, ATTENTION_MASK, *tasks, *head_of(interface, head).inputs)
