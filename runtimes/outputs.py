"""Vectors as stores want them: floats, 8-bit integers, or the signs as packed bits.

A row of :data:`OUTPUTS` per type. 8-bit integers need the greatest magnitude that a task's vectors
have at a length, which the build measures and the manifest keeps: never taken from a batch, which
would give a text another vector in other company.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from runtimes.arrays import Encoded, Vectors
from runtimes.choices import OutputType
from runtimes.errors import AdaptrtError, InputError

# For each task, by the vectors' length in digits: the magnitude that becomes 127.
Ranges = Mapping[str, Mapping[str, float]]
STEPS = 127  # on each side of 0; -128 is left out, so that -v gives -q


def truncate(vectors: Vectors, width: int) -> Vectors:
    """The first ``width`` columns, each row scaled to length 1 again."""
    if width == vectors.shape[1]:
        return vectors
    cut = vectors[:, :width]
    shortened: Vectors = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    return shortened


def _float32(vectors: Vectors, limits: Vectors) -> Encoded:
    return vectors


def _int8(vectors: Vectors, limits: Vectors) -> Encoded:
    """Rounded to nearest; beyond the limit ±127. ``astype`` alone would wrap 130 to -126."""
    steps = np.rint(vectors * (STEPS / limits)[:, None])
    return steps.clip(-STEPS, STEPS).astype(np.int8)


def _uint8(vectors: Vectors, limits: Vectors) -> Encoded:
    """int8 plus 128: the same distances; 128 stands for 0."""
    return (_int8(vectors, limits).astype(np.int16) + 128).astype(np.uint8)


def _ubinary(vectors: Vectors, limits: Vectors) -> Encoded:
    """Bit i is whether value i is above 0; the first of each eight is the byte's highest."""
    return np.packbits(vectors > 0, axis=1)


def _binary(vectors: Vectors, limits: Vectors) -> Encoded:
    """ubinary minus 128, so that it fits int8."""
    return (_ubinary(vectors, limits).astype(np.int16) - 128).astype(np.int8)


@dataclass(frozen=True, kw_only=True)
class Output:
    """One type. ``bits`` are those of one value; one that is ``ranged`` needs a task's range.

    ``convert`` takes unit vectors ``[n, width]`` and each row's limit ``[n]``.
    """

    dtype: str  # NumPy's name
    bits: int
    convert: Callable[[Vectors, Vectors], Encoded]
    ranged: bool = False

    def bytes_per_vector(self, width: int) -> int:
        """Of ``width`` values."""
        return width * self.bits // 8


OUTPUTS: Mapping[OutputType, Output] = {
    OutputType.FLOAT32: Output(dtype="float32", bits=32, convert=_float32),
    OutputType.INT8: Output(dtype="int8", bits=8, convert=_int8, ranged=True),
    OutputType.UINT8: Output(dtype="uint8", bits=8, convert=_uint8, ranged=True),
    OutputType.BINARY: Output(dtype="int8", bits=1, convert=_binary),
    OutputType.UBINARY: Output(dtype="uint8", bits=1, convert=_ubinary),
}


def converter(
    output: str, width: int, tasks: Sequence[str], ranges: Ranges
) -> Callable[[Vectors], Encoded]:
    """What makes ``output`` of vectors ``[n, width]``; ``tasks`` are those of the rows.

    Raises :class:`InputError`, before anything is embedded, for a type that is not known or that
    this bundle's vectors do not have. What it returns raises :class:`AdaptrtError` for vectors
    that are not finite, which have no integer.
    """
    kind = OutputType.parse("output", output)
    row = OUTPUTS[kind]
    if width * row.bits % 8:
        raise InputError(
            f"output: {kind} packs 8 values into a byte, got {width} dimensions, expected a "
            "multiple of 8"
        )
    limits = np.array([_limit(kind, ranges, t, width) if row.ranged else 1 for t in tasks])

    def convert(vectors: Vectors) -> Encoded:
        if kind is not OutputType.FLOAT32 and not np.isfinite(vectors).all():
            raise AdaptrtError(f"output: a vector is not finite, so it has no {kind}")
        return row.convert(vectors, limits.astype(np.float32))

    return convert


def _limit(kind: OutputType, ranges: Ranges, task: str, width: int) -> float:
    try:
        return ranges[task][str(width)]
    except KeyError:
        raise InputError(
            f"output: {kind} needs the range of {task}'s vectors, which the manifest of this "
            "bundle does not have; build it again"
        ) from None
