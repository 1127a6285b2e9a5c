"""What a job would take, from a look at a few of its splits; nothing is written."""

from __future__ import annotations

import time
from dataclasses import dataclass

from runtimes.corpus.columns import input_columns
from runtimes.corpus.encoding import Block, Way, prepare_piece, way_of
from runtimes.corpus.folder import Folder
from runtimes.corpus.job import describe, load, make_job
from runtimes.corpus.reading import read_split
from runtimes.corpus.records import Job, Request, Split
from runtimes.corpus.sources import find_source
from runtimes.corpus.splits import plan_splits
from runtimes.errors import InputError

_SPLITS, _ROWS = 8, 256  # looked at, evenly spread; rows of each
_SECONDS = 5.0  # of embedding, after which the speed is known well enough


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of the whole corpus; ``bytes`` of the vectors, ``tokens_per_second`` of one worker here.

    Of ``looked_at`` rows ``refused`` cannot be embedded.
    """

    files: int
    parts: int
    texts: int
    tokens: int
    rows: int
    bytes: int
    tokens_per_second: float
    looked_at: int
    refused: int


def estimate(request: Request) -> Estimate:
    """Raises :class:`InputError` as the job itself would before its first row."""
    Folder(request.out).check_usable()
    source = find_source(request.input, request.out)
    columns = input_columns(source, request.wanted, skip=request.skips)
    splits = list(plan_splits(source, request))
    with load(request.loading) as embedder:
        facts = describe(embedder, request.wanted, request.loading)
        job = make_job(request, source, columns, facts)
        way = way_of(embedder, job)
        blocks = [block for split in _spread(splits) for block in _look(job, split, way)]
        texts = sum(len(block.rows) for block in blocks)
        if not texts:
            raise InputError(f"INPUT: no text in the rows that were looked at in {request.input}")
        speed, rows_per_text = _time(way, blocks)
    whole = sum(split.bytes for split in splits) / max(1, sum(block.bytes for block in blocks))
    rows = round(texts * whole * rows_per_text)
    return Estimate(
        files=len(source.files),
        parts=len(splits),
        texts=round(texts * whole),
        tokens=round(sum(block.tokens for block in blocks) * whole),
        rows=rows,
        bytes=rows * request.wanted.output.bytes_per_vector(facts.width),
        tokens_per_second=speed,
        looked_at=texts + sum(len(block.skipped) for block in blocks),
        refused=sum(len(block.skipped) for block in blocks),
    )


def _spread(splits: list[Split]) -> list[Split]:
    step = max(1, len(splits) // _SPLITS)
    return splits[::step][:_SPLITS]


def _look(job: Job, split: Split, way: Way) -> list[Block]:
    """The split's first rows; what could not be embedded is counted, not raised."""
    blocks: list[Block] = []
    for piece in read_split(job, split):
        blocks.append(prepare_piece(piece, split, way))
        if sum(len(block.rows) for block in blocks) >= _ROWS:
            break
    return blocks


def _time(way: Way, blocks: list[Block]) -> tuple[float, float]:
    """Tokens per second, and output rows per text."""
    tokens = rows = texts = 0
    start = time.perf_counter()
    for block in blocks:
        if not block.rows:
            continue
        rows += len(way.embed(block).vectors)
        texts += len(block.rows)
        tokens += block.tokens
        if time.perf_counter() - start > _SECONDS:
            break
    return tokens / (time.perf_counter() - start), rows / texts
