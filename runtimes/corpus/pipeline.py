"""A worker's three stages: reading and tokenising, executing, writing, each ahead of the next.

While one block is executed the next one is read and tokenised (by the tokenizer's own threads, in
Rust) and the one before is written, also across the border of two splits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from runtimes.corpus.ahead import ahead
from runtimes.corpus.encoding import Block, Embedded, Way, make_blocks, way_of
from runtimes.corpus.parts import PartWriter
from runtimes.corpus.reading import read_split
from runtimes.corpus.records import Job, Record, Split
from runtimes.embedder import Embedder
from runtimes.text.memory import trim

_AHEAD = 2  # blocks between two stages


@dataclass(frozen=True, kw_only=True)
class Done:
    """A block was written: ``bytes`` of the input and what came of them."""

    split: int
    bytes: int
    texts: int
    tokens: int


def embed_splits(embedder: Embedder, job: Job, splits: Iterable[Split]) -> Iterator[Done | Record]:
    """Each split's part, written; what was done of it after every block.

    Raises what a stage raises; parts that were finished before stay.
    """
    way = way_of(embedder, job)
    with ExitStack() as stack:
        blocks = stack.enter_context(ahead(_read(job, way, splits), _AHEAD))
        embedded = stack.enter_context(ahead(map(way.embed, blocks), _AHEAD))
        yield from _write(job, embedded)


def _read(job: Job, way: Way, splits: Iterable[Split]) -> Iterator[Block]:
    for split in splits:
        yield from make_blocks(read_split(job, split), split, way, job.on_error, str(job.root))


def _write(job: Job, blocks: Iterator[Embedded]) -> Iterator[Done | Record]:
    for first in blocks:
        with PartWriter(job, first.block.split) as part:
            embedded = first
            part.write(embedded)
            yield _done(embedded)
            while not embedded.block.last:
                embedded = next(blocks)
                part.write(embedded)
                yield _done(embedded)
            yield part.publish()
        trim()


def _done(embedded: Embedded) -> Done:
    block = embedded.block
    return Done(
        split=block.split.index, bytes=block.bytes, texts=len(block.rows), tokens=block.tokens
    )
