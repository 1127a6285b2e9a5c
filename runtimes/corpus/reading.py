"""A split's rows: texts that can be embedded, what is kept beside them, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from runtimes.corpus.lines import Row, read_rows
from runtimes.corpus.records import Job, Skipped, Split
from runtimes.corpus.sources import PARQUET, check_unchanged
from runtimes.corpus.splits import DAMAGE, is_damage
from runtimes.errors import InputError, shown
from runtimes.text.tokens import check_text

_ROWS = 256  # read at once


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Neighbouring rows: ``kept`` has the columns that the output gets, one row for each text.

    ``bytes`` of the input, those of what was skipped too.
    """

    texts: Sequence[str]
    positions: Sequence[int]
    kept: pa.Table
    skipped: Sequence[Skipped]
    bytes: int


@dataclass(frozen=True, kw_only=True)
class _Raw:
    """As it was read: a text is str, bytes or None; ``reasons`` by index, of rows without one."""

    texts: Sequence[object]
    positions: Sequence[int]
    kept: pa.Table
    reasons: dict[int, str]
    bytes: int


def read_split(job: Job, split: Split) -> Iterator[Piece]:
    """Rows in the order of the file, a few hundred at a time; one piece at least.

    What is damaged ends the split with a :class:`Skipped` for the rest of it. Raises
    :class:`InputError` where the file was changed, and OSError where the disk fails.
    """
    columns = pa.ipc.read_schema(pa.py_buffer(job.columns))
    if split.damage is not None:
        yield _without_texts(columns, _rest(split, 0, split.damage))
        return
    check_unchanged(job.root, split.file)
    yield _without_texts(columns)
    read = _parquet if job.kind == PARQUET else _lines
    at = split.start
    try:
        for raw, end in read(job, split, columns):
            yield _checked(job, split, raw)
            at = end
    except DAMAGE as error:
        if not is_damage(error):
            raise
        reason = f"cannot be read ({shown(' '.join(str(error).split()))})"
        yield _without_texts(columns, _rest(split, at, reason))
    check_unchanged(job.root, split.file)


def _rest(split: Split, position: int, reason: str) -> Skipped:
    return Skipped(file=split.file.path, position=position, reason=reason, rest=True)


def _without_texts(columns: pa.Schema, *skipped: Skipped) -> Piece:
    return Piece(texts=(), positions=(), kept=columns.empty_table(), skipped=skipped, bytes=0)


def _lines(job: Job, split: Split, columns: pa.Schema) -> Iterator[tuple[_Raw, int]]:
    names = (job.wanted.column, *columns.names)
    scale = split.bytes / (split.stop - split.start)
    rows = read_rows(job.root, split.file.path, job.kind, names, split.start, split.stop)
    for group in _groups(rows):
        values = [row.values or (None,) * len(names) for row in group]
        kept = [pa.array([v[1 + i] for v in values], pa.string()) for i in range(len(columns))]
        raw = _Raw(
            texts=[v[0] for v in values],
            positions=[row.position for row in group],
            kept=pa.table(kept, schema=columns),
            reasons={i: row.reason for i, row in enumerate(group) if row.reason is not None},
            bytes=round(scale * (group[-1].end - group[0].position)),
        )
        yield raw, group[-1].end


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Few enough that texts of 1 MB each are no burden; what comes before damage is not lost."""
    group: list[Row] = []
    size = 0
    damage: BaseException | None = None
    iterator = iter(rows)
    while damage is None:
        try:
            row = next(iterator, None)
        except DAMAGE as error:
            row, damage = None, error
        if row is not None:
            group.append(row)
            size += row.end - row.position
        if group and (row is None or len(group) == _ROWS or size > 1 << 20):
            yield group
            group, size = [], 0
        if row is None:
            break
    if damage is not None:
        raise damage


def _parquet(job: Job, split: Split, columns: pa.Schema) -> Iterator[tuple[_Raw, int]]:
    names = list(dict.fromkeys([job.wanted.column, *columns.names]))
    scale = split.bytes / (split.stop - split.start)
    path = job.root / split.file.path
    with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
        for first, group in _row_groups(parquet.metadata, split):
            at = first
            batches = parquet.iter_batches(
                _ROWS, row_groups=[group], columns=names, use_threads=False
            )
            for batch in batches:
                low, high = max(split.start - at, 0), min(split.stop - at, batch.num_rows)
                if low < high:
                    yield _columnar(batch.slice(low, high - low), at + low, columns, job, scale)
                at += batch.num_rows
                if at >= split.stop:
                    break


def _row_groups(metadata: pq.FileMetaData, split: Split) -> Iterator[tuple[int, int]]:
    """The first row and the number of each row group that the split has rows of."""
    first = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if first < split.stop and first + rows > split.start:
            yield first, group
        first += rows


def _columnar(
    batch: pa.RecordBatch, first: int, columns: pa.Schema, job: Job, scale: float
) -> tuple[_Raw, int]:
    text = batch.column(job.wanted.column)
    if pa.types.is_dictionary(text.type):
        text = text.dictionary_decode()
    positions = range(first, first + batch.num_rows)
    raw = _Raw(
        texts=text.cast(pa.large_binary()).to_pylist(),  # which need not be UTF-8
        positions=positions,
        kept=pa.table([_plain(batch.column(f.name), f.type) for f in columns], schema=columns),
        reasons={},
        bytes=round(scale * batch.num_rows),
    )
    return raw, positions.stop


def _plain(column: pa.Array, kind: pa.DataType) -> pa.Array:
    return column.cast(kind) if pa.types.is_dictionary(column.type) else column


def _checked(job: Job, split: Split, raw: _Raw) -> Piece:
    """Only what can be embedded, and why the rest cannot."""
    good: list[int] = []
    texts: list[str] = []
    skipped: list[Skipped] = []
    ids = raw.kept.column(0).is_null().to_pylist() if job.wanted.id_column is not None else None
    for index, value in enumerate(raw.texts):
        reason = raw.reasons.get(index)
        if reason is None and ids is not None and ids[index]:
            reason = f"{shown(job.wanted.id_column)}: null, expected an id"
        if reason is None:
            try:
                texts.append(_text(value, job.loading.max_bytes))
                good.append(index)
                continue
            except InputError as error:
                reason = str(error)
        skipped.append(Skipped(file=split.file.path, position=raw.positions[index], reason=reason))
    return Piece(
        texts=texts,
        positions=[raw.positions[index] for index in good],
        kept=raw.kept.take(pa.array(good, pa.int64())) if skipped else raw.kept,
        skipped=skipped,
        bytes=raw.bytes,
    )


def _text(value: object, most: int) -> str:
    if value is None:
        raise InputError("null, expected a text")
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"not UTF-8 (byte {error.start + 1} is 0x{error.object[error.start]:02x})"
            ) from error
    check_text(value, "text", most)
    return str(value)
