"""Parts: Parquet files whose bytes follow from the split and the job, written whole or not at all.

A part is written beside its place, flushed to the disk, renamed, and its folder is flushed; a name
that is there is a part that is whole. Its schema metadata has the fingerprint of its vectors, and
its own record, so that a part says what it is without the journal.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from runtimes.corpus.encoding import Embedded
from runtimes.corpus.records import Job, Record, Skipped, Split
from runtimes.files import flush, sha256
from runtimes.fingerprint import KEY

if TYPE_CHECKING:
    from typing_extensions import Self

RECORD = b"adaptrt.part"  # key of the part's own record in Parquet's metadata


class PartWriter:
    """One part in the making; leaving its block without :meth:`publish` removes it."""

    def __init__(self, job: Job, split: Split) -> None:
        self._job, self._split = job, split
        self._schema = pa.ipc.read_schema(pa.py_buffer(job.schema))
        self._name = job.part(split)
        self._staged = job.staged / f"{self._name}.{secrets.token_hex(8)}"
        self._file = _Hashed(self._staged)
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._file, "w"),
            self._schema.with_metadata({KEY: job.fingerprint}),
            **_format(self._schema),
        )
        self._counts = dict.fromkeys(("rows", "texts", "tokens", "cut"), 0)
        self._skipped: list[Skipped] = []

    def write(self, embedded: Embedded) -> None:
        """A block's vectors, as a row group."""
        block, counts = embedded.block, self._counts
        self._skipped += block.skipped
        counts["rows"] += len(embedded.vectors)
        counts["texts"] += len(block.rows)
        counts["tokens"] += block.tokens
        counts["cut"] += sum(row.cut for row in block.rows)
        if len(embedded.vectors):
            table = _table(self._schema, self._split, embedded)
            self._writer.write_table(table, row_group_size=table.num_rows)

    def publish(self) -> Record:
        """Make the part whole: it is there under its name when this returns."""
        own = {**self._counts, "skipped": [_json(skipped) for skipped in self._skipped]}
        self._writer.add_key_value_metadata({RECORD: msgspec.json.encode(own)})
        self._writer.close()
        self._file.finish()
        place = self._job.out / self._name
        self._staged.replace(place)
        flush(self._job.out)
        return Record(
            split=self._split.index,
            part=self._name,
            bytes=self._file.bytes,
            sha256=self._file.sha256,
            skipped=tuple(self._skipped),
            **self._counts,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        with suppress(OSError):
            self._staged.unlink()


class _Hashed:
    """A new file that hashes what is written to it."""

    def __init__(self, path: Path) -> None:
        self._stream: BinaryIO = path.open("xb")
        self._digest = hashlib.sha256()
        self.bytes = 0
        self.closed = False

    def write(self, content: Any) -> int:
        """All of it, or OSError."""
        self._digest.update(content)
        self._stream.write(content)
        self.bytes += len(content)
        return len(content)

    def tell(self) -> int:
        """Where the next byte goes."""
        return self.bytes

    def flush(self) -> None:
        """Only :meth:`finish` does."""

    def close(self) -> None:
        """Nothing more is written."""
        self.closed = True
        self._stream.close()

    def finish(self) -> None:
        """Every byte is on the disk when this returns."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.close()

    @property
    def sha256(self) -> str:
        """Of what was written."""
        return self._digest.hexdigest()


def _format(schema: pa.Schema) -> dict[str, Any]:
    """Everything that Parquet leaves open, said: the bytes must not depend on a default.

    Vectors are as good as random, so neither a dictionary nor compression makes them smaller.
    """
    columns = [name for name in schema.names if name != "embedding"]
    return {
        "version": "2.6",
        "data_page_version": "1.0",
        "compression": {**dict.fromkeys(columns, "zstd"), "embedding": "none"},
        "use_dictionary": False,
        "write_statistics": columns,
        "store_schema": True,
        "write_page_checksum": True,
        "data_page_size": 1 << 20,
    }


def _table(schema: pa.Schema, split: Split, embedded: Embedded) -> pa.Table:
    block, source = embedded.block, embedded.source
    kept = block.kept.take(source) if embedded.spans is not None else block.kept
    columns: dict[str, Any] = dict(zip(kept.column_names, kept.columns, strict=True))
    names = [name for name in schema.names if name not in ("chunk", "start", "end", "embedding")]
    if len(names) == len(columns):  # the first is the id
        columns = dict(zip(names, kept.columns, strict=True))
    else:
        places = np.asarray(block.positions)[source].tolist()
        columns["id"] = pa.array([f"{split.file.path}:{place}" for place in places])
    if embedded.spans is not None:
        for number, name in enumerate(("chunk", "start", "end")):
            columns[name] = pa.array(embedded.spans[:, number], schema.field(name).type)
    kind = schema.field("embedding").type
    values = pa.array(np.ascontiguousarray(embedded.vectors).reshape(-1), kind.value_type)
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(values, type=kind)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _json(skipped: Skipped) -> dict[str, object]:
    return {"file": skipped.file, "position": skipped.position, "reason": skipped.reason} | (
        {"rest": True} if skipped.rest else {}
    )


def skipped_lines(skipped: Iterable[Skipped]) -> Iterator[bytes]:
    """JSON lines, without their ends."""
    return (msgspec.json.encode(_json(one)) for one in skipped)


def read_record(job: Job, split: Split) -> Record | None:
    """That of a part that is there and whole; None where it is not."""
    path = job.out / job.part(split)
    if not path.is_file():
        return None
    try:
        metadata = pq.read_metadata(path).metadata or {}
        own = msgspec.json.decode(metadata[RECORD])
        skipped = tuple(Skipped(**one) for one in own.pop("skipped"))
        return Record(
            split=split.index,
            part=path.name,
            bytes=path.stat().st_size,
            sha256=sha256(path),
            skipped=skipped,
            **own,
        )
    except (pa.ArrowException, OSError, KeyError, TypeError, msgspec.DecodeError):
        return None
