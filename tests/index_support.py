"""Indexes as ``adaptrt embed`` lays them down: Parquet files with a fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from adaptrt import Embedder
from runtimes.fingerprint import KEY, Fingerprint, fingerprint_of
from runtimes.index.read import COLUMN
from tests.support import Array

TEXTS = [
    f"{subject} {verb} {place}."
    for subject in ("The ferry", "A nurse", "Der Bäcker", "Une factrice", "東京の猫")
    for verb in ("waits in", "leaves", "remembers", "sees")
    for place in ("the harbour", "Lyon", "the tunnel")
]


def write_part(
    path: Path, vectors: Array, texts: Sequence[str], fingerprint: Fingerprint | None, at: int = 0
) -> None:
    """One file; without a fingerprint it is anybody's."""
    width = vectors.shape[1]
    values = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    table = pa.table(
        {
            "id": pa.array(range(at, at + len(texts)), pa.int64()),
            "text": pa.array(list(texts)),
            COLUMN: pa.FixedSizeListArray.from_arrays(values, width),
        }
    )
    if fingerprint is not None:
        table = table.replace_schema_metadata({KEY: fingerprint.to_bytes()})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def write_index(
    folder: Path,
    embedder: Embedder,
    texts: Sequence[str] = TEXTS,
    *,
    task: str | None = None,
    dimensions: int | None = None,
    output: str = "float32",
    prefix: bool = True,
    parts: int = 3,
) -> Path:
    """A folder of vectors of ``texts``, in so many files."""
    fingerprint = fingerprint_of(
        embedder, task=task, dimensions=dimensions, output=output, prefix=prefix
    )
    vectors = embedder.encode(texts, task=task, dimensions=dimensions, output=output, prefix=prefix)
    step = -(-len(texts) // parts)
    for number, start in enumerate(range(0, len(texts), step)):
        rows = slice(start, start + step)
        write_part(
            folder / f"part-{number}.parquet", vectors[rows], texts[rows], fingerprint, start
        )
    return folder
