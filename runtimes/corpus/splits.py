"""Files cut into splits, each about so many bytes of text, at the borders of rows.

The cuts depend on the files and on the size asked for, so a job that is planned again is the same.
Lines of a plain file are cut by looking at the cuts alone. Compressed files and CSV are read
through once: in the former a cut is a place in what is decompressed, and a line of CSV ends only
where its quotes are closed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from runtimes.corpus.records import File, Request, Split
from runtimes.corpus.sources import DELIMITERS, PARQUET, Source, compression_of, open_lines
from runtimes.errors import InputError, shown

_CHUNK = 1 << 20  # read at once
# A compressed file has no more splits than this: each decompresses all that is before it.
_MOST_COMPRESSED = 64
# What pyarrow raises of a file that is no such file. Its OSErrors of damage have no number.
DAMAGE = (pa.ArrowException, OSError, EOFError)


def is_damage(error: BaseException) -> bool:
    """Whether a file's content is at fault, and not the disk or the network."""
    return isinstance(error, DAMAGE) and getattr(error, "errno", None) is None


def plan_splits(source: Source, request: Request) -> Iterator[Split]:
    """Every split of every file, in order.

    A file that cannot be read is one split that says why, or where nothing is skipped an
    :class:`InputError`.
    """
    index, column, split_bytes = 0, request.wanted.column, request.wanted.split_bytes
    for file in source.files:
        try:
            cuts = list(_cuts(source, file, column, split_bytes))
        except DAMAGE as error:
            if not is_damage(error):
                raise
            split = Split(index=0, file=file, start=0, stop=0, bytes=file.bytes, damage=_say(error))
            if not request.skips:
                raise InputError(
                    f"{source.root / file.path}: cannot be read ({split.damage}); "
                    "--on-error skip leaves it out"
                ) from error
            cuts = [split]
        for split in cuts:
            yield replace(split, index=index)
            index += 1


def _say(error: BaseException) -> str:
    return shown(" ".join(str(error).split()) or type(error).__name__)


def _cuts(source: Source, file: File, column: str, split_bytes: int) -> Iterator[Split]:
    path = source.root / file.path
    if source.kind == PARQUET:
        yield from _rows(path, file, column, split_bytes)
    elif compression_of(file.path) is None and source.kind not in DELIMITERS:
        with path.open("rb") as stream:
            yield from _between(file, [0, *_plain_cuts(stream, file.bytes, split_bytes)])
    else:
        yield from _between(file, _scanned(path, source.kind in DELIMITERS, split_bytes))


def _between(file: File, cuts: list[int]) -> Iterator[Split]:
    """Splits between the cuts, of which the last is the end. An empty file has none."""
    share = file.bytes / max(1, cuts[-1])
    for start, stop in itertools.pairwise(cuts):
        bytes_ = round((stop - start) * share)
        yield Split(index=0, file=file, start=start, stop=stop, bytes=bytes_)


def _plain_cuts(stream: BinaryIO, size: int, split_bytes: int) -> Iterator[int]:
    """The first line's beginning at or after each multiple, and the end."""
    at = 0
    while (at := at + split_bytes) < size:
        stream.seek(at - 1)
        for chunk in iter(lambda: stream.read(1 << 16), b""):
            if (end := chunk.find(b"\n")) >= 0:
                at = stream.tell() - len(chunk) + end + 1
                break
        else:
            break
        if at < size:
            yield at
    if size:
        yield size


def _scanned(path: Path, quoted: bool, split_bytes: int) -> list[int]:
    """Cuts of what a stream gives, which is read once; with ``quoted`` outside of quotes only."""
    cuts, at, target, quotes = [0], 0, split_bytes, 0
    with open_lines(path) as stream:
        for chunk in iter(lambda: stream.read(_CHUNK), b""):
            begin = 0
            while at + len(chunk) >= target:
                begin = max(begin, target - 1 - at)
                end = _line_end(chunk, begin, quotes, quoted)
                if end is None:
                    break
                cuts.append(at + end)
                begin, target = end, at + end + split_bytes
            quotes += chunk.count(b'"') if quoted else 0
            at += len(chunk)
    if at > cuts[-1]:
        cuts.append(at)
    if compression_of(path.name) is not None and len(cuts) > _MOST_COMPRESSED + 1:
        every = -(-(len(cuts) - 1) // _MOST_COMPRESSED)
        cuts = [*cuts[:-1:every], cuts[-1]]
    return cuts


def _line_end(chunk: bytes, begin: int, quotes: int, quoted: bool) -> int | None:
    """After the first line that ends at or after ``begin``; ``quotes`` came before the chunk."""
    counted = 0
    seen = quotes
    while (end := chunk.find(b"\n", begin)) >= 0:
        if not quoted:
            return end + 1
        seen += chunk.count(b'"', counted, end)
        counted = begin = end + 1
        if seen % 2 == 0:
            return end + 1
    return None


def _rows(path: Path, file: File, column: str, split_bytes: int) -> Iterator[Split]:
    """Rows of Parquet: row groups joined while they are small, divided where they are large."""
    with pq.ParquetFile(path) as parquet:
        metadata = parquet.metadata
        share = file.bytes / max(1, metadata.num_rows)
        groups = [_group(metadata.row_group(g), column) for g in range(metadata.num_row_groups)]
    start = stop = size = 0
    for rows, text_bytes in groups:
        if stop > start and size + text_bytes > split_bytes:
            yield _row_split(file, start, stop, share)
            start, size = stop, 0
        pieces = max(1, min(rows, text_bytes // split_bytes))
        for piece in range(1, pieces):
            border = stop + rows * piece // pieces
            yield _row_split(file, start, border, share)
            start = border
        stop, size = stop + rows, size + text_bytes // pieces
    if stop > start:
        yield _row_split(file, start, stop, share)


def _row_split(file: File, start: int, stop: int, share: float) -> Split:
    return Split(index=0, file=file, start=start, stop=stop, bytes=round((stop - start) * share))


def _group(group: pq.RowGroupMetaData, column: str) -> tuple[int, int]:
    """Rows, and uncompressed bytes of the column that is read."""
    columns = (group.column(i) for i in range(group.num_columns))
    sizes = [c.total_uncompressed_size for c in columns if c.path_in_schema == column]
    return group.num_rows, sum(sizes)
