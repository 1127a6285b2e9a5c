"""What an index loses with another engine, measured on texts of its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtimes.arrays import Encoded
from runtimes.choices import OutputType
from runtimes.errors import InputError, shown
from runtimes.fingerprint import Fingerprint
from runtimes.index.read import COLUMN, Index, arrow
from runtimes.text.tokens import TruncationWarning

TEXTS = 64
NEAREST = 10
CHUNK = "chunk"  # a column that only late chunks have: their number in the document
_PER_PART = 16  # rows read from one file: texts of many files say more than many of one


class Encodes(Protocol):
    """An open embedder."""

    def encode(
        self,
        texts: Sequence[str],
        *,
        task: str | None = None,
        dimensions: int | None = None,
        output: str = OutputType.FLOAT32,
        prefix: bool = True,
    ) -> Encoded:
        """One vector per text."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Texts of the index embedded again, beside their stored vectors.

    ``overlap`` is the share of each text's ten nearest neighbours among the stored vectors that
    stay the same when the new vector searches; 1 is all of them.
    """

    count: int
    least: float
    mean: float
    overlap: float

    def line(self) -> str:
        """For people."""
        return (
            f"sample: {self.count} texts of the index embedded again, least cosine "
            f"{self.least:.7f}, mean {self.mean:.7f}; {self.overlap:.1%} of their {NEAREST} "
            "nearest are the same"
        )


def measure_sample(embedder: Encodes, index: Index, column: str, count: int = TEXTS) -> Sample:
    """Embed up to ``count`` texts of the index's ``column`` again and compare.

    The column holds the whole texts that the vectors are of. Raises :class:`InputError` for an
    index without Parquet files or the column, of late chunks, or with fewer than two texts.
    """
    if not index.parts:
        raise InputError(f"--text-column: {index.path} holds no texts; leave it out")
    texts, rows = _rows(index, column, count)
    one = index.fingerprint
    with warnings.catch_warnings():  # those that the index was made from were cut alike
        warnings.simplefilter("ignore", TruncationWarning)
        ours = embedder.encode(
            texts,
            task=one.task,
            dimensions=one.dimensions,
            output=one.output,
            prefix=bool(one.prefix),
        )
    again, stored = as_floats(ours, one), as_floats(rows, one)
    cosines = (again * stored).sum(axis=1)
    return Sample(
        count=len(texts),
        least=float(cosines.min()),
        mean=float(cosines.mean()),
        overlap=_overlap(again, stored),
    )


def as_floats(vectors: Encoded, one: Fingerprint) -> NDArray[np.float64]:
    """Stored vectors of an output type as unit vectors ``[n, dimensions]``, to compare them."""
    match one.output:
        case OutputType.BINARY | OutputType.UBINARY:
            offset = 128 if one.output is OutputType.BINARY else 0
            packed = (vectors.astype(np.int16) + offset).astype(np.uint8)
            floats = np.unpackbits(packed, axis=1)[:, : one.dimensions].astype(np.float64) * 2 - 1
        case OutputType.UINT8:
            floats = vectors.astype(np.float64) - 128
        case _:
            floats = vectors.astype(np.float64)
    unit: NDArray[np.float64] = floats / np.linalg.norm(floats, axis=1, keepdims=True)
    return unit


def _overlap(again: NDArray[np.float64], stored: NDArray[np.float64]) -> float:
    nearest = min(NEAREST, len(stored) - 1)
    ours, theirs = again @ stored.T, stored @ stored.T
    shares = []
    for row, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        first, second = (np.argsort(-np.delete(s, row), kind="stable")[:nearest] for s in (a, b))
        shares.append(len(set(first) & set(second)) / nearest)
    return float(np.mean(shares))


def _rows(index: Index, column: str, count: int) -> tuple[list[str], Encoded]:
    texts: list[str] = []
    vectors: list[Encoded] = []
    chosen = list(_spread(index.parts, -(-count // _PER_PART)))
    each = max(_PER_PART, -(-count // len(chosen)))
    for part in chosen:
        for text, vector in _pairs(part, column, min(each, count - len(texts))):
            texts.append(text)
            vectors.append(vector)
    if len(texts) < 2:
        raise InputError(f"--text-column: {len(texts)} texts in {index.path}, expected two or more")
    return texts, np.stack(vectors)


def _pairs(part: Path, column: str, most: int) -> Iterator[tuple[str, Encoded]]:
    """The first texts of a file that are not empty, with their vectors."""
    with arrow().ParquetFile(part) as file:
        names = file.schema_arrow.names
        if column not in names:
            raise InputError(
                f"--text-column: got {shown(column)}, expected one of {', '.join(names)} ({part}); "
                "adaptrt embed keeps columns with --keep"
            )
        if CHUNK in names:  # whose vectors know their document
            raise InputError(f"--text-column: {part} holds late chunks; leave it out")
        left = most
        for batch in file.iter_batches(batch_size=_PER_PART, columns=[column, COLUMN]):
            stored = batch.column(COLUMN)
            flat = stored.flatten().to_numpy(zero_copy_only=False)
            if len(flat) != len(stored) * stored.type.list_size:
                raise InputError(f"index: {part}: column {COLUMN} holds nulls")
            vectors = flat.reshape(len(stored), stored.type.list_size)
            for text, vector in zip(batch.column(column).to_pylist(), vectors, strict=True):
                if not left:
                    return
                if isinstance(text, str) and text:
                    left -= 1
                    yield text, vector


def _spread(parts: Sequence[Path], most: int) -> Iterator[Path]:
    chosen = np.unique(np.linspace(0, len(parts) - 1, min(most, len(parts))).astype(int))
    yield from (parts[i] for i in chosen)
