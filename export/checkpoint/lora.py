"""LoRA arithmetic in one orientation for linear layers and embeddings alike.

An adapted matrix is ``W + scaling · down · up`` with ``down [rows, r]`` and ``up [r, columns]``,
where a linear layer's W is ``[in, out]`` (the graph computes ``x·W``) and an embedding's is
``[entries, width]``. Checkpoints store a linear layer as ``[out, in]`` with A = downᵀ, B = upᵀ
(Hu et al. 2021, ΔW = B·A); for embeddings A and B swap roles, which this orientation hides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


# Compilers join x·W and x·down into one product, as wide as both: tensor cores want rows of whole
# 16-byte vectors, 16 INT8 values. Columns that no task owns are zero and cost 1.2 % at rank 20.
ALIGNMENT = 16


@dataclass(frozen=True)
class Bank:
    """Adapters side by side: column block t of ``down`` and row block t of ``up`` are adapter t's.

    ``y = x·W + ((x·down) ⊙ select)·up`` with ``select`` the one-hot of the row's task, repeated
    over its columns: an adapter that is not selected contributes exactly zero. An adapter takes
    as many columns as its widest module; narrower modules are padded with zeros. ``width`` is
    the number of columns; an empty bank of some width is a slot to be filled at run time.
    """

    adapters: tuple[Adapter, ...]
    width: int

    @classmethod
    def of(cls, adapters: Sequence[Adapter]) -> Bank:
        """The narrowest bank that holds the adapters, filled up to a multiple of ``ALIGNMENT``."""
        rank = sum(map(adapter_rank, adapters))
        return cls(tuple(adapters), -(-rank // ALIGNMENT) * ALIGNMENT)

    def columns(self) -> Iterator[tuple[int, Adapter, slice]]:
        """Each adapter's index and its columns."""
        start = 0
        for index, adapter in enumerate(self.adapters):
            stop = start + adapter_rank(adapter)
            yield index, adapter, slice(start, stop)
            start = stop

    def tasks(self) -> NDArray[np.int64]:
        """The ``task_id`` that owns each column, ``[width]``."""
        owners = np.full(self.width, -2, np.int64)
        for index, _, columns in self.columns():
            owners[columns] = index
        return owners

    def down(self, module: str, rows: int) -> Matrix:
        """``[rows, width]``."""
        bank = np.zeros((rows, self.width), np.float32)
        for _, adapter, columns in self.columns():
            if (pair := adapter.modules.get(module)) is not None:
                bank[:, columns.start : columns.start + pair.rank] = pair.down
        return bank

    def up(self, module: str, columns: int) -> Matrix:
        """``[width, columns]``, the scaling folded in."""
        bank = np.zeros((self.width, columns), np.float32)
        for _, adapter, rows in self.columns():
            if (pair := adapter.modules.get(module)) is not None:
                bank[rows.start : rows.start + pair.rank] = pair.up * np.float32(pair.scaling)
        return bank


def adapter_rank(adapter: Adapter) -> int:
    """The rank of an adapter's widest module."""
    return max((pair.rank for pair in adapter.modules.values()), default=0)


def merge(weight: Matrix, pair: LoraPair | None, rows: slice = slice(None)) -> Matrix:
    """``weight`` (already the given rows) plus the rows' ΔW; computed and added in FP32."""
    return weight if pair is None else weight + pair.delta(rows)


def fuse_columns(pairs: Sequence[LoraPair | None], widths: Sequence[int]) -> LoraPair | None:
    """One update for a fused layer from those of its column blocks (Q, K and V of Wqkv).

    Blocks with equal ``down`` share its rank, so that what the published checkpoint splits is
    fused again: merging it is the same product bit for bit. The ranks of different ``down`` add
    up, and ``up`` is block diagonal. Scaling must be equal (it is one number per PEFT file unless
    a pattern says otherwise; then it is folded in, which rounds ``up`` once more).
    """
    present = [p for p in pairs if p is not None]
    if not present:
        return None
    scaling = present[0].scaling
    if any(p.scaling != scaling for p in present):
        pairs = [p and LoraPair(p.down, p.up * np.float32(p.scaling), 1.0) for p in pairs]
        return fuse_columns(pairs, widths)
    shared: list[tuple[Matrix, Matrix]] = []
    column = 0
    for pair, width in zip(pairs, widths, strict=True):
        if pair is not None:
            up = next((up for down, up in shared if np.array_equal(down, pair.down)), None)
            if up is None:
                up = np.zeros((pair.rank, sum(widths)), np.float32)
                shared.append((pair.down, up))
            up[:, column : column + width] = pair.up
        column += width
    downs, ups = zip(*shared, strict=True)
    return LoraPair(np.concatenate(downs, axis=1), np.concatenate(ups), scaling)
