"""From checkpoint tensors to the graph's: merged, transposed, cast once, streamed to one file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from export.adapters import Adapter, Matrix, merge
from export.checkpoint import Checkpoint
from export.config import EncoderConfig
from export.modules import adaptable_modules
from runtimes.errors import InputError

BLOCK_ROWS = 16384  # rows of an embedding table in memory at a time: 64 MB at 1024 columns
_PAGE = 4096  # mapped files want page-aligned tensors
DTYPES: dict[str, np.dtype[np.generic]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True)
class Slot:
    """Where one tensor of the graph lies in the weight file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return int(np.prod(self.shape)) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class CastReport:
    """Weights that the element type cannot hold well, by tensor name."""

    flushed: Mapping[str, float]  # share of nonzero values that became zero, where above 1 %


def layout(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> tuple[Slot, ...]:
    """Offsets for named (dtype, shape) tensors, in name order, each on a page of its own.

    Depends on nothing but the graph, so every task's weight file has the same layout and one
    traced graph serves all of them.
    """
    slots: list[Slot] = []
    offset = 0
    for name in sorted(tensors):
        slot = Slot(name, *tensors[name], offset)
        slots.append(slot)
        offset += -(-slot.nbytes // _PAGE) * _PAGE
    return tuple(slots)


def tensor_blocks(
    checkpoint: Checkpoint, adapter: Adapter, name: str, max_tokens: int
) -> Iterator[Matrix]:
    """One tensor of the graph in FP32, merged with the adapter, as consecutive blocks of rows."""
    config = checkpoint.config
    if name.startswith("rope."):
        yield rope_table(config, name.removeprefix("rope."), max_tokens)
        return
    owner, _, part = name.rpartition(".")
    module = adaptable_modules(config).get(owner) if part == "weight" else None
    if module is None:
        yield checkpoint.read(name)
        return
    pair = adapter.modules.get(owner)
    if not module.embedding:
        yield merge(np.ascontiguousarray(checkpoint.read(name).T), pair)
        return
    for start in range(0, module.rows, BLOCK_ROWS):
        rows = slice(start, min(start + BLOCK_ROWS, module.rows))
        yield merge(checkpoint.read(name, rows), pair, rows)


def rope_table(config: EncoderConfig, which: str, max_tokens: int) -> Matrix:
    """cos or sin of position · base^(-2i/d), ``[max_tokens, d/2]`` in FP32 (Su et al. 2021).

    Computed by the same torch operations in the same order as the reference's: one unit in the
    last place of a frequency is an angle of 5e-4 at position 8191.
    """
    import torch

    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / (config.rope_theta**exponents)
    angles = torch.arange(max_tokens, dtype=torch.float32)[:, None] * frequencies[None, :]
    table: Matrix = {"cos": torch.cos, "sin": torch.sin}[which](angles).numpy()
    return table


def write_weights(
    path: Path, slots: tuple[Slot, ...], checkpoint: Checkpoint, adapter: Adapter, max_tokens: int
) -> CastReport:
    """Write every slot to ``path``; memory stays near one block of one tensor.

    Raises :class:`InputError` naming every tensor with a value the element type cannot hold.
    """
    overflowed: dict[str, int] = {}
    flushed: dict[str, float] = {}
    with path.open("wb") as stream:
        for slot in tqdm(slots, desc="weights", unit="tensor", disable=None, leave=False):
            stream.seek(slot.offset)
            lost = nonzero = 0
            for block in tensor_blocks(checkpoint, adapter, slot.name, max_tokens):
                cast = _cast(block, DTYPES[slot.dtype])
                if not np.isfinite(cast).all():
                    overflowed[slot.name] = int((~np.isfinite(cast)).sum())
                lost += int(((cast == 0) & (block != 0)).sum())
                nonzero += int(np.count_nonzero(block))
                stream.write(cast.tobytes())
            if lost > 0.01 * nonzero:
                flushed[slot.name] = lost / nonzero
            if (written := stream.tell() - slot.offset) != slot.nbytes:
                raise InputError(f"{slot.name}: {written} bytes, expected {slot.nbytes}")
        stream.truncate(-(-stream.tell() // _PAGE) * _PAGE)
    if overflowed:
        names = ", ".join(f"{name} ({count} values)" for name, count in overflowed.items())
        raise InputError(
            f"weights above 65504 do not fit in FP16: {names}; use PRECISION=bf16 or fp32"
        )
    return CastReport(flushed)


def _cast(block: Matrix, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    with np.errstate(over="ignore", under="ignore"):  # both are counted by the caller
        return block.astype(dtype, copy=False)
