"""From checkpoint tensors to the graph's: merged, transposed, cast once, streamed to one file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes  # noqa: F401  (its types get names in NumPy, bfloat16 and others)
import numpy as np
from numpy.typing import NDArray

from export.checkpoint.encoder_config import EncoderConfig
from export.checkpoint.lora import Adapter, Bank, Matrix, merge
from export.checkpoint.names import WORD, adaptable_modules, is_gemm
from export.checkpoint.reader import Checkpoint
from export.console.progress import progress_bar
from export.graph.precision_plan import PrecisionPlan
from export.graph.table import QuantisedTable
from runtimes.bundle_files import SHARED_FILE, WEIGHT_FILE
from runtimes.errors import InputError
from runtimes.files import link_or_copy

BLOCK_ROWS = 16384  # rows of an embedding table in memory at a time: 64 MB at 1024 columns
Array = NDArray[Any]
ROW_OF = "embeddings.row_of"  # token id to row of the word embeddings
_PAGE = 4096  # mapped files want page-aligned tensors
_PER_BYTE = {"int4": 2}  # numbers that share a byte, as ONNX packs them


@dataclass(frozen=True)
class Slot:
    """Where one tensor of the graph lies in the weight file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    file: str

    @property
    def is_packed(self) -> bool:
        """Whether several numbers share a byte."""
        return self.dtype in _PER_BYTE

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        size = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        return -(-size // _PER_BYTE.get(self.dtype, 1))


@dataclass(frozen=True)
class CastReport:
    """Weights that the element type cannot hold well, by tensor name."""

    flushed: Mapping[str, float]  # share of nonzero values that became zero, where above 1 %


def layout(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], *, share: bool = False
) -> tuple[Slot, ...]:
    """Offsets for named (dtype, shape) tensors, in name order, each on a page of its own.

    Depends on nothing but the graph, so every task's weight file has the same layout and one
    traced graph serves all of them. With ``share``, tensors that no adapter changes go into a
    file of their own, which the tasks of one build have in common.
    """
    slots: list[Slot] = []
    ends = {WEIGHT_FILE: 0, SHARED_FILE: 0}
    for name in sorted(tensors):
        file = SHARED_FILE if share and not _changes_with_task(name) else WEIGHT_FILE
        slot = Slot(name, *tensors[name], ends[file], file)
        slots.append(slot)
        ends[file] += -(-slot.nbytes // _PAGE) * _PAGE
    return tuple(slots)


def _changes_with_task(name: str) -> bool:
    """Linear layers' matrices are merged; embedding tables keep their adapters beside them."""
    owner, _, part = name.rpartition(".")
    return part.startswith("lora_") or (is_gemm(owner) and part != "bias")


@dataclass(frozen=True)
class Contents:
    """What fills a graph's weight file: an adapter to merge, a bank to lay beside (or neither).

    ``plan`` says which matrices are stored quantised, ``table`` how the word embeddings are, and
    ``kept`` which tokens have a row.
    """

    checkpoint: Checkpoint
    adapter: Adapter
    bank: Bank | None = None
    plan: PrecisionPlan | None = None
    table: QuantisedTable | None = None
    kept: NDArray[np.int64] | None = None  # the word embeddings' token ids, ascending; None: all
    unknown_id: int = 0  # the token whose row all others take, where not all are kept


def tensor_blocks(contents: Contents, name: str, max_tokens: int) -> Iterator[Array]:
    """One tensor of the graph, merged and in FP32 (or integers), as consecutive blocks of rows."""
    checkpoint = contents.checkpoint
    config = checkpoint.config
    if name.startswith("rope."):
        yield rope_table(config, name.removeprefix("rope."), max_tokens)
        return
    owner, _, part = name.rpartition(".")
    if contents.bank is not None and (owner == "bank" or part.startswith("lora_")):
        tensor = _bank_tensor(contents.bank, config, owner, part)
        rows_of_tokens = owner == WORD and part == "lora_down" and contents.kept is not None
        yield tensor[contents.kept] if rows_of_tokens else tensor
        return
    if contents.plan is not None and owner in contents.plan.quantised and part != "bias":
        yield contents.plan.tensor(owner, part, merged_matrix(contents, owner))
        return
    if contents.table is not None and owner == WORD:
        for rows in _embedding_rows(contents, owner):
            yield contents.table.tensor(name, rows)
        return
    if name == ROW_OF:
        yield _row_of(contents, config.vocab)
        return
    module = adaptable_modules(config).get(owner) if part == "weight" else None
    if module is None:
        yield checkpoint.read(name)
    elif module.embedding:
        yield from _embedding_rows(contents, owner)
    else:
        yield merged_matrix(contents, owner)


def _embedding_rows(contents: Contents, owner: str) -> Iterator[Matrix]:
    """An embedding table, merged and in FP32, block by block."""
    module = adaptable_modules(contents.checkpoint.config)[owner]
    pair = contents.adapter.modules.get(owner)
    for start in range(0, module.rows, BLOCK_ROWS):
        rows = slice(start, min(start + BLOCK_ROWS, module.rows))
        block = merge(contents.checkpoint.read(f"{owner}.weight", rows), pair, rows)
        if owner == WORD and contents.kept is not None:
            first, last = np.searchsorted(contents.kept, (rows.start, rows.stop))
            block = block[contents.kept[first:last] - rows.start]
        if len(block):
            yield block


def _row_of(contents: Contents, vocab: int) -> Array:
    """The row of each token id, ``[vocab, 1]``; the unknown token's where it has none."""
    if contents.kept is None:
        raise ValueError(f"{ROW_OF}: every token has a row of its own")
    row_of = np.full(vocab, np.searchsorted(contents.kept, contents.unknown_id), np.int32)
    row_of[contents.kept] = np.arange(len(contents.kept), dtype=np.int32)
    return row_of[:, None]


def merged_matrix(contents: Contents, module: str) -> Matrix:
    """A linear layer's weight as the graph multiplies it, FP32 ``[in, out]``."""
    weight = np.ascontiguousarray(contents.checkpoint.read(f"{module}.weight").T)
    return merge(weight, contents.adapter.modules.get(module))


def _bank_tensor(bank: Bank, config: EncoderConfig, owner: str, part: str) -> Array:
    if owner == "bank":
        return bank.tasks()
    module = adaptable_modules(config)[owner]
    if part == "lora_down":
        return bank.down(owner, module.rows)
    return bank.up(owner, module.columns)


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
    folder: Path,
    slots: tuple[Slot, ...],
    contents: Contents,
    max_tokens: int,
    shared: Path | None = None,
) -> CastReport:
    """Write the weight files of a bundle; memory stays near one block of one tensor.

    ``shared`` is a file of this layout's shared tensors that was written before; it is hard-linked
    (copied where the file system cannot). Raises :class:`InputError` naming every tensor with a
    value the element type cannot hold.
    """
    if shared is not None:
        (folder / SHARED_FILE).unlink(missing_ok=True)  # another plan's weights may follow
        link_or_copy(shared, folder / SHARED_FILE)
        slots = tuple(slot for slot in slots if slot.file != SHARED_FILE)
    counts: dict[str, _Counts] = {}
    for file in sorted({slot.file for slot in slots}):
        of_file = [slot for slot in slots if slot.file == file]
        with (folder / file).open("wb") as stream:
            for slot in progress_bar(of_file, "weights", "tensor"):
                stream.seek(slot.offset)
                counts[slot.name] = _write_slot(stream, slot, contents, max_tokens)
            stream.truncate(-(-stream.tell() // _PAGE) * _PAGE)
    if overflowed := {name: c.overflowed for name, c in counts.items() if c.overflowed}:
        names = ", ".join(f"{name} ({count} values)" for name, count in overflowed.items())
        raise InputError(
            f"weights above 65504 do not fit in FP16: {names}; use PRECISION=bf16 or fp32"
        )
    return CastReport(
        {name: c.flushed / c.nonzero for name, c in counts.items() if c.flushed > 0.01 * c.nonzero}
    )


@dataclass
class _Counts:
    overflowed: int = 0
    flushed: int = 0
    nonzero: int = 0


def _write_slot(stream: BinaryIO, slot: Slot, contents: Contents, max_tokens: int) -> _Counts:
    counts = _Counts()
    dtype = np.dtype(slot.dtype)
    for block in tensor_blocks(contents, slot.name, max_tokens):
        cast = _cast(block, dtype)
        if cast.dtype != block.dtype:
            counts.overflowed += int((~np.isfinite(cast)).sum())
            counts.flushed += int(((cast == 0) & (block != 0)).sum())
            counts.nonzero += int(np.count_nonzero(block))
        stream.write(packed(cast).tobytes())
    if (written := stream.tell() - slot.offset) != slot.nbytes:
        raise InputError(f"{slot.name}: {written} bytes, expected {slot.nbytes}")
    return counts


def packed(values: Array) -> Array:
    """``values`` as they lie in a file: of two INT4 in a byte the first is the lower half."""
    if str(values.dtype) not in _PER_BYTE:
        return np.ascontiguousarray(values)
    numbers = values.reshape(-1, 2).astype(np.int8).view(np.uint8) & 0xF
    return numbers[:, 0] | numbers[:, 1] << 4


def unpacked(raw: NDArray[np.uint8], slot: Slot) -> Array:
    """The numbers of a packed ``slot`` whose bytes are ``raw``, as INT8, which PyTorch has."""
    halves = np.stack([raw << 4, raw & 0xF0], axis=-1).view(np.int8) >> 4
    return halves.reshape(slot.shape)


def _cast(block: Array, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    with np.errstate(over="ignore", under="ignore"):  # both are counted by the caller
        return block.astype(dtype, copy=False)
