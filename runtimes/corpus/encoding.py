"""Rows to vectors: what is prepared ahead of the executor, and what it then computes.

The rows of a split go through in blocks, which depend on the split alone: a split that is embedded
again runs in the same calls, and its vectors are the same to the last bit. Within a block texts
are sorted by length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from runtimes.arrays import Encoded, Ids, Vectors
from runtimes.corpus.reading import Piece
from runtimes.corpus.records import Job, OnError, Skipped, Split, Stored
from runtimes.embedder import Embedder
from runtimes.errors import InputError
from runtimes.outputs import converter, truncate
from runtimes.text.batching import schedule
from runtimes.text.chunks import (
    OVERLAP,
    Cut,
    Document,
    Span,
    WindowPlan,
    choose_spans,
    plan_windows,
)
from runtimes.text.tokens import shorten

_ROWS = 8192  # texts in a block
_TOKENS = 1 << 18  # of a block


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A text that is ready for the executor: its tokens, or a document with its spans."""

    tokens: int
    cut: bool
    value: Any


@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows that are embedded together and become a row group. ``kept`` as in :class:`Piece`."""

    split: Split
    positions: Sequence[int]
    kept: pa.Table
    rows: Sequence[Prepared]
    skipped: Sequence[Skipped]
    bytes: int
    last: bool

    @property
    def tokens(self) -> int:
        """Of all its texts."""
        return sum(row.tokens for row in self.rows)


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """``vectors`` of a block. ``source``: of which of its rows each is.

    ``spans`` ``[n, 3]`` are number, start and end of each chunk; None where a row is a text.
    """

    block: Block
    vectors: Encoded
    source: Ids
    spans: Ids | None


class Way(Protocol):
    """Of embedding: one vector per text, or late chunking."""

    def prepare(self, texts: Sequence[str]) -> list[Prepared | str]:
        """For each text what the executor needs, or why it cannot be embedded."""

    def embed(self, block: Block) -> Embedded:
        """Execute."""


def way_of(embedder: Embedder, job: Job) -> Way:
    """What the job wants."""
    return (Chunks if job.wanted.chunked else Texts)(embedder, job)


class Texts:
    """One vector per text."""

    def __init__(self, embedder: Embedder, job: Job) -> None:
        self._embedder, self._wanted = embedder, job.wanted
        self._task = job.wanted.task or embedder.manifest.task
        self._prefix = embedder.manifest.prefixes[self._task] if job.wanted.prefix else ""
        self._convert = store(embedder, job, self._task)

    def prepare(self, texts: Sequence[str]) -> list[Prepared | str]:
        """Tokens, cut to what the bundle takes; with ``strict`` that is a reason."""
        prefixed = [self._prefix + text for text in texts]
        return [self._fitted(row) for row in _each(self._embedder.tokenizer.tokenize, prefixed)]

    def _fitted(self, ids: Ids | str) -> Prepared | str:
        if isinstance(ids, str):
            return ids
        most = self._embedder.tokenizer.max_tokens
        if (cut := len(ids) > most) and self._wanted.strict:
            return f"{len(ids)} tokens, the bundle takes {most}"
        ids = shorten(ids, most).astype(np.int32)  # half the memory while it waits
        return Prepared(tokens=len(ids), cut=cut, value=ids)

    def embed(self, block: Block) -> Embedded:
        """In the calls that :func:`runtimes.text.batching.schedule` makes of the lengths."""
        embedder, rows = self._embedder, block.rows
        vectors = np.empty((len(rows), embedder.dimensions[-1]), np.float32)
        lengths = [row.tokens for row in rows]
        for batch in schedule(lengths, embedder.manifest.max_batch, embedder.runtime.budget):
            ids = [rows[i].value.astype(np.int64) for i in batch]
            vectors[batch] = embedder.run_rows(ids, [self._task] * len(batch))
        source = np.arange(len(rows))
        return Embedded(block=block, vectors=self._convert(vectors), source=source, spans=None)


class Chunks:
    """Late chunking: one vector per chunk of a document."""

    def __init__(self, embedder: Embedder, job: Job) -> None:
        self._embedder = embedder
        self._task = job.wanted.task or embedder.manifest.task
        self._prefix = embedder.manifest.prefixes[self._task] if job.wanted.prefix else ""
        self._cut = Cut.parse(None, job.wanted.chunk_tokens, job.wanted.sentences)
        self._convert = store(embedder, job, self._task)

    def prepare(self, texts: Sequence[str]) -> list[Prepared | str]:
        """A document and its spans, or what is wrong with it."""
        return [self._document(text) for text in texts]

    def _document(self, text: str) -> Prepared | str:
        try:
            document = Document(self._embedder.tokenizer, text, self._prefix)
            spans = choose_spans(document, self._cut)
            self._plan(document, spans)  # a chunk that is longer than a window
        except InputError as error:
            return str(error)
        return Prepared(tokens=len(document.ids), cut=False, value=(document, spans))

    def _plan(self, document: Document, spans: Sequence[Span]) -> WindowPlan:
        return plan_windows(document, spans, self._embedder.tokenizer.max_tokens, OVERLAP)

    def embed(self, block: Block) -> Embedded:
        """Document by document, window by window."""
        vectors: list[Vectors] = []
        source: list[int] = []
        spans: list[tuple[int, int, int]] = []
        for row, prepared in enumerate(block.rows):
            plan = self._plan(*prepared.value)
            pooled = [self._embedder.run_window(call, self._task) for call in plan.calls]
            chunked = plan.gather(pooled)
            vectors.append(np.asarray(chunked.vectors, np.float32))
            source += [row] * len(chunked.spans)
            spans += [(i, start, end) for i, (start, end) in enumerate(chunked.spans)]
        width = self._embedder.dimensions[-1]
        together = np.concatenate([np.empty((0, width), np.float32), *vectors])
        return Embedded(
            block=block,
            vectors=self._convert(together),
            source=np.array(source, np.int64),
            spans=np.array(spans, np.int64).reshape(-1, 3),
        )


def store(embedder: Embedder, job: Job, task: str) -> Callable[[Vectors], Encoded]:
    """From full unit vectors to what the part holds."""
    wanted, ranges = job.wanted, embedder.manifest.output_ranges
    width = wanted.dimensions or embedder.dimensions[-1]

    def convert(vectors: Vectors) -> Encoded:
        if not len(vectors):
            return vectors[:, :0]
        rows = converter(wanted.output.output, width, [task] * len(vectors), ranges)
        stored = rows(truncate(vectors, width))
        return stored.astype(np.float16) if wanted.output is Stored.FLOAT16 else stored

    return convert


def make_blocks(
    pieces: Iterable[Piece], split: Split, way: Way, on_error: OnError, root: str
) -> Iterator[Block]:
    """A split's rows in blocks, prepared; the last one says so, and may be empty.

    Raises :class:`InputError` at the first row that cannot be embedded, unless those are skipped.
    """
    waiting: list[Block] = []
    for piece in pieces:
        block = prepare_piece(piece, split, way)
        if block.skipped and on_error is OnError.STOP:
            first = block.skipped[0]
            raise InputError(
                f"{root}/{first.file}, at {first.position}: {first.reason}; correct it, or leave "
                "such rows out with --on-error skip"
            )
        full = sum(len(b.rows) for b in waiting) + len(block.rows) > _ROWS
        if waiting and (full or sum(b.tokens for b in waiting) + block.tokens > _TOKENS):
            yield _join(waiting, last=False)
            waiting = []
        waiting.append(block)
    if waiting:
        yield _join(waiting, last=True)


def prepare_piece(piece: Piece, split: Split, way: Way) -> Block:
    """A piece as a block of its own."""
    ready = way.prepare(piece.texts)
    good = [index for index, row in enumerate(ready) if not isinstance(row, str)]
    refused = [
        Skipped(file=split.file.path, position=position, reason=row)
        for position, row in zip(piece.positions, ready, strict=True)
        if isinstance(row, str)
    ]
    return Block(
        split=split,
        positions=[piece.positions[index] for index in good],
        kept=piece.kept.take(pa.array(good, pa.int64())) if refused else piece.kept,
        rows=[row for row in ready if not isinstance(row, str)],
        skipped=sorted([*piece.skipped, *refused], key=lambda s: s.position),
        bytes=piece.bytes,
        last=False,
    )


def _join(blocks: Sequence[Block], *, last: bool) -> Block:
    return replace(
        blocks[0],
        positions=[position for block in blocks for position in block.positions],
        kept=pa.concat_tables([block.kept for block in blocks]).combine_chunks(),
        rows=[row for block in blocks for row in block.rows],
        skipped=[skipped for block in blocks for skipped in block.skipped],
        bytes=sum(block.bytes for block in blocks),
        last=last,
    )


def _each(tokenize: Callable[[Sequence[str]], list[Ids]], texts: Sequence[str]) -> list[Ids | str]:
    """Tokens of each text; where the tokenizer refuses one, the reason, and the others' tokens."""
    try:
        return list(tokenize(texts))
    except InputError:
        rows: list[Ids | str] = []
        for text in texts:
            try:
                rows += tokenize([text])
            except InputError as error:
                rows.append(str(error))
        return rows
