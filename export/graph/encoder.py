"""The encoder that is traced: XLM-RoBERTa with rotary positions, mean pooling, L2 norm.

Its parameters carry the checkpoint's canonical names, so weights are attached to the traced graph
by name. This module is also where precision is decided. Matrix products, their biases, GELU, RoPE
and attention run in ``dtype``, and so is what a layer hands to the next stored: it is LayerNorm's
output, of order 1. The residual sum, LayerNorm, pooling and the norm run in FP32: FP16 overflows
above 65504, the sum of 8192 token vectors loses bits, and TensorRT runs a LayerNorm in its
input's type whatever ``stash_type`` says. RoPE's angles, cos and sin are computed in FP32 (FP16
holds integers exactly only to 2048) and only the tables are cast. Figures:
docs/decisions/2026-11-21-precision.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.onnx import ops

from export.checkpoint.encoder_config import EncoderConfig
from export.graph.table import SCALES
from export.graph.weights import Slot, unpacked
from export.spec import GraphForm
from runtimes.choices import AdapterMode, HeadName, Interface


class LowRank(nn.Module):
    """Adds the low-rank path of a bank or a slot to a module; absent at width 0."""

    def add_bank(self, inputs: int, outputs: int, dtype: torch.dtype, width: int) -> None:
        """Parameters ``lora_down [inputs, width]`` and ``lora_up [width, outputs]``."""
        self.width = width
        if width:
            self.lora_down = nn.Parameter(torch.empty(inputs, width, dtype=dtype))
            self.lora_up = nn.Parameter(torch.empty(width, outputs, dtype=dtype))

    def lift(self, low: Tensor, select: Tensor | None) -> Tensor:
        """``(low ⊙ select)·up``; a slot has one adapter and nothing to select."""
        return torch.matmul(low if select is None else low * select, self.lora_up)


class Table(LowRank):
    """An embedding table ``[entries, width]``; a bank is gathered before it is multiplied."""

    def __init__(self, entries: int, width: int, dtype: torch.dtype, bank: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(entries, width, dtype=dtype))
        self.add_bank(entries, width, dtype, bank)
        self.weight_scale: nn.Parameter | None = None

    def quantise(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Make room for stored numbers and for their scales, one for each row or block of it."""
        stored = torch.empty(self.weight.shape, dtype=torch.int8, device=self.weight.device)
        scales = torch.empty(shape, dtype=dtype, device=self.weight.device)
        self.weight = nn.Parameter(stored, requires_grad=False)
        self.weight_scale = nn.Parameter(scales)

    def forward(self, ids: Tensor, select: Tensor | None) -> Tensor:
        """``[...]`` → FP32 ``[..., width]``: ``E[ids] + (A[ids] ⊙ select)·B``."""
        rows = nn.functional.embedding(ids, self.weight)
        if self.weight_scale is not None:
            scales = self.weight_scale[ids].reshape(*ids.shape, -1, 1)
            blocks = rows.to(scales.dtype).reshape(*ids.shape, scales.shape[-2], -1)
            rows = (blocks * scales).flatten(-2)
        rows = rows.float()
        if not self.width:
            return rows
        low = nn.functional.embedding(ids, self.lora_down)
        return rows + self.lift(low, select).float()


class Linear(LowRank):
    """``x·W + ((x·A) ⊙ select)·B + b`` with W ``[in, out]``: no transpose in the graph.

    The bias comes last, where executors fuse it with what follows.
    """

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype, bank: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(outputs, dtype=dtype))
        self.add_bank(inputs, outputs, dtype, bank)

    def forward(self, x: Tensor, select: Tensor | None) -> Tensor:
        """``[..., in]`` → ``[..., out]``."""
        y = torch.matmul(x, self.weight)
        if self.width:
            y = y + self.lift(torch.matmul(x, self.lora_down), select)
        return y + self.bias


@dataclass(frozen=True)
class Context:
    """What every layer shares in one call: RoPE's tables and positions, the mask, the task."""

    cos: Tensor
    sin: Tensor
    positions: Tensor
    mask: Tensor
    select: Tensor | None


class Layer(nn.Module):
    """One post-norm transformer layer: residual sums and LayerNorm in FP32."""

    def __init__(self, config: EncoderConfig, dtype: torch.dtype, bank: int) -> None:
        super().__init__()
        h, ff = config.hidden, config.intermediate
        self.heads, self.dtype = config.heads, dtype
        self.mixer = nn.ModuleDict(
            {"Wqkv": Linear(h, 3 * h, dtype, bank), "out_proj": Linear(h, h, dtype, bank)}
        )
        self.mlp = nn.ModuleDict(
            {"fc1": Linear(h, ff, dtype, bank), "fc2": Linear(ff, h, dtype, bank)}
        )
        self.norm1 = nn.LayerNorm(h, config.layer_norm_eps)
        self.norm2 = nn.LayerNorm(h, config.layer_norm_eps)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """``x [batch, sequence, hidden]`` → the same in FP32."""
        x = x.to(self.dtype)
        y = self._attend(x, context)
        x = self.norm1(x.float() + y.float()).to(self.dtype)
        y = nn.functional.gelu(self.mlp["fc1"](x, context.select))
        y = self.mlp["fc2"](y, context.select)
        normed: Tensor = self.norm2(x.float() + y.float())
        return normed

    def _attend(self, x: Tensor, context: Context) -> Tensor:
        q, k, v = self.mixer["Wqkv"](x, context.select).chunk(3, dim=-1)
        rope = (context.cos, context.sin, context.positions)
        q = ops.rotary_embedding(q, *rope, num_heads=self.heads)
        k = ops.rotary_embedding(k, *rope, num_heads=self.heads)
        mixed = ops.attention(
            q, k, v, context.mask, q_num_heads=self.heads, kv_num_heads=self.heads
        )[0]
        projected: Tensor = self.mixer["out_proj"](mixed, context.select)
        return projected


class Rope(nn.Module):
    """The cos and sin tables, ``[max_tokens, head_dim / 2]``."""

    def __init__(self, config: EncoderConfig, max_tokens: int, dtype: torch.dtype) -> None:
        super().__init__()
        shape = (max_tokens, config.head_dim // 2)
        self.cos = nn.Parameter(torch.empty(shape, dtype=dtype))
        self.sin = nn.Parameter(torch.empty(shape, dtype=dtype))


class Embeddings(nn.Module):
    """Word vectors plus the vector of token type 0, the only one used (some families have none)."""

    row_of: Tensor

    def __init__(
        self, config: EncoderConfig, dtype: torch.dtype, bank: int, kept_rows: int = 0
    ) -> None:
        super().__init__()
        self.kept_rows = kept_rows
        if kept_rows:
            self.row_of = nn.Buffer(torch.empty(config.vocab, 1, dtype=torch.int32))
        self.word_embeddings = Table(kept_rows or config.vocab, config.hidden, dtype, bank)
        self.has_token_types = config.token_types > 0
        if self.has_token_types:
            types = torch.float32  # a single row: no reason to round it
            self.token_type_embeddings = Table(config.token_types, config.hidden, types, bank)

    def forward(self, input_ids: Tensor, select: Tensor | None) -> Tensor:
        """``[batch, sequence]`` → FP32 ``[batch, sequence, hidden]``."""
        words: Tensor
        if self.kept_rows:
            # As an embedding, since the exporter makes a GatherND of an index.
            input_ids = nn.functional.embedding(input_ids, self.row_of).squeeze(-1)
        if not self.has_token_types:
            words = self.word_embeddings(input_ids, select)
            return words
        first = torch.zeros((1, 1), dtype=torch.int64, device=input_ids.device)
        exact = None if select is None else select.float()
        token_type: Tensor = self.token_type_embeddings(first, exact)
        words = self.word_embeddings(input_ids, select)
        return words + token_type


class Layers(nn.Module):
    """The stack; a module of its own for the parameters' names."""

    def __init__(self, config: EncoderConfig, dtype: torch.dtype, bank: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, dtype, bank) for _ in range(config.layers))


class TaskColumns(nn.Module):
    """Which task owns each column of the bank, int64 ``[width]``."""

    task: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.task = nn.Buffer(torch.empty(width, dtype=torch.int64))


class Encoder(nn.Module):
    """Token ids to unit vectors (or, with the official interface, to token vectors)."""

    def __init__(
        self,
        config: EncoderConfig,
        dtype: torch.dtype,
        max_tokens: int,
        form: GraphForm = GraphForm(),  # noqa: B008  (frozen)
    ) -> None:
        super().__init__()
        self.dtype, self.form = dtype, form
        self.embeddings = Embeddings(config, dtype, form.embedding_rank, form.kept_rows)
        self.emb_ln = nn.LayerNorm(config.hidden, config.layer_norm_eps)
        self.encoder = Layers(config, dtype, form.rank)
        self.rope = Rope(config, max_tokens, dtype)
        self._switchable = form.adapter is AdapterMode.SWITCHABLE
        if self._switchable:
            self.bank = TaskColumns(form.rank)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *more: Tensor) -> Tensor:
        """``input_ids``, ``attention_mask`` int64 ``[batch, sequence]`` → FP32 ``[batch, hidden]``.

        Every row must have at least one unmasked token; rows of the result have length 1. ``more``
        are the form's further inputs in their order. A switchable encoder takes the task, int64
        ``[batch]`` (a scalar with the official interface), -1 for the base model; what follows is
        the head's, whose pooling says what the result is.
        """
        task_id, head_inputs = (more[0], more[1:]) if self._switchable else (None, more)
        batch, sequence = input_ids.shape
        positions = torch.arange(sequence, device=input_ids.device).unsqueeze(0)
        keys = attention_mask.to(torch.bool)[:, None, None, :]
        context = Context(
            cos=self.rope.cos,
            sin=self.rope.sin,
            positions=positions.expand(batch, sequence),
            # ONNX Runtime wants the query length in the mask's shape; TensorRT's copy drops it.
            mask=keys.expand(batch, 1, sequence, sequence),
            select=None if task_id is None else self._select(task_id),
        )
        x = self.emb_ln(self.embeddings(input_ids, context.select))
        for layer in self.encoder.layers:
            x = layer(x, context)
        if self.form.interface is Interface.OFFICIAL:
            tokens: Tensor = x
            return tokens
        return POOLINGS[self.form.head](x, attention_mask, *head_inputs)

    def _select(self, task_id: Tensor) -> Tensor:
        """One where the row's task owns the column, else zero, ``[batch, 1, width]``."""
        owned: Tensor = torch.eq(task_id.reshape(-1, 1, 1), self.bank.task)
        return owned.to(self.dtype)


def unit_mean(x: Tensor, attention_mask: Tensor) -> Tensor:
    """The L2-normalised mean of the unmasked token vectors, in FP32."""
    weights = attention_mask.to(torch.float32).unsqueeze(-1)
    mean = (x * weights).sum(1) / weights.sum(1)
    unit: Tensor = mean / torch.linalg.vector_norm(mean, dim=-1, keepdim=True)
    return unit


def unit_chunks(x: Tensor, _: Tensor, weights: Tensor) -> Tensor:
    """L2-normalised sums of token vectors by ``weights [batch, chunks, sequence]``, FP32.

    The result is ``[batch, chunks, hidden]``; the mask is in the weights.

    A chunk without weights, which callers use to fill up, gives zeros and no NaN.
    """
    sums = torch.matmul(weights, x)
    norms = torch.linalg.vector_norm(sums, dim=-1, keepdim=True)
    unit: Tensor = sums / norms.clamp_min(torch.finfo(torch.float32).tiny)
    return unit


# Token vectors ``[batch, sequence, hidden]``, the mask and the head's inputs → the head's output.
POOLINGS: dict[HeadName, Callable[..., Tensor]] = {
    HeadName.SENTENCE: unit_mean,
    HeadName.CHUNKS: unit_chunks,
}


def tensor_in(raw: NDArray[np.uint8], slot: Slot) -> Tensor:
    """The tensor of a ``slot`` whose bytes are ``raw``; packed ones as INT8, one number a byte."""
    if slot.is_packed:
        return torch.from_numpy(unpacked(raw, slot))
    return torch.from_numpy(raw).view(getattr(torch, slot.dtype)).view(slot.shape)


def load_encoder(
    config: EncoderConfig,
    dtype: str,
    max_tokens: int,
    folder: Path,
    slots: tuple[Slot, ...],
    form: GraphForm = GraphForm(),  # noqa: B008  (frozen)
) -> Encoder:
    """The module with the very weights of a bundle, mapped from its weight files."""
    with torch.device("meta"):
        encoder = Encoder(config, getattr(torch, dtype), max_tokens, form).eval()
    state = {}
    for slot in slots:
        raw = np.memmap(folder / slot.file, np.uint8, "c", slot.offset, (slot.nbytes,))
        state[slot.name] = tensor_in(raw, slot)
        if slot.name == SCALES:
            encoder.embeddings.word_embeddings.quantise(slot.shape, state[slot.name].dtype)
    encoder.load_state_dict(state, strict=True, assign=True)
    return encoder
