"""LoRA arithmetic in one orientation for linear layers and embeddings alike.

An adapted matrix is ``W + scaling · down · up`` with ``down [rows, r]`` and ``up [r, columns]``,
where a linear layer's W is ``[in, out]`` (the graph computes ``x·W``) and an embedding's is
``[entries, width]``. Checkpoints store a linear layer as ``[out, in]`` with A = downᵀ, B = upᵀ
(Hu et al. 2021, ΔW = B·A); for embeddings A and B swap roles, which this orientation hides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class LoraPair:
    """One module's low-rank update: ``down [rows, r]``, ``up [r, columns]``, both FP32."""

    down: Matrix
    up: Matrix
    scaling: float

    @property
    def rank(self) -> int:
        """The inner width r."""
        return int(self.down.shape[1])

    def delta(self, rows: slice = slice(None)) -> Matrix:
        """Rows of ΔW = scaling · down · up, in FP32."""
        return (self.down[rows] @ self.up) * np.float32(self.scaling)


@dataclass(frozen=True)
class Adapter:
    """One task's updates by module name; a module that is absent is not adapted."""

    task: str
    modules: Mapping[str, LoraPair]


def merge(weight: Matrix, pair: LoraPair | None, rows: slice = slice(None)) -> Matrix:
    """``weight`` (already the given rows) plus the rows' ΔW; computed and added in FP32."""
    return weight if pair is None else weight + pair.delta(rows)


def fuse_columns(pairs: Sequence[LoraPair | None], widths: Sequence[int]) -> LoraPair | None:
    """One update for a fused layer from those of its column blocks (Q, K and V of Wqkv).

    Where all blocks share one ``down``, as the published checkpoint's do, the result keeps their
    rank, so that merging it is the same product bit for bit as merging the fused original.
    Otherwise the ranks add up and ``up`` is block diagonal. Scaling must be equal (it is one
    number per PEFT file unless an alpha pattern says otherwise; then it is folded in).
    """
    present = [p for p in pairs if p is not None]
    if not present:
        return None
    scaling = present[0].scaling
    if any(p.scaling != scaling for p in present):
        pairs = [p and LoraPair(p.down, p.up * np.float32(p.scaling), 1.0) for p in pairs]
        return fuse_columns(pairs, widths)
    first = present[0].down
    if len(present) == len(pairs) and all(np.array_equal(first, p.down) for p in present):
        return LoraPair(first, np.concatenate([p.up for p in present], axis=1), scaling)
    down = np.concatenate([p.down for p in present], axis=1)
    up = np.zeros((down.shape[1], sum(widths)), np.float32)
    row = column = 0
    for pair, width in zip(pairs, widths, strict=True):
        if pair is not None:
            up[row : row + pair.rank, column : column + width] = pair.up
            row += pair.rank
        column += width
    return LoraPair(down, up, scaling)
