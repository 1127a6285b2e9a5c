"""The encoder that is traced: XLM-RoBERTa with rotary positions, mean pooling, L2 norm.

Its parameters carry the checkpoint's canonical names, so weights are attached to the traced graph
by name. This module is also where precision is decided. Matrix products, their biases, GELU, RoPE
and attention run in ``dtype``, and so is what a layer hands to the next stored: it is LayerNorm's
output, of order 1. The residual sum, LayerNorm, pooling and the norm run in FP32: FP16 overflows
above 65504, the sum of 8192 token vectors loses bits, and TensorRT runs a LayerNorm in its
input's type whatever ``stash_type`` says. RoPE's angles, cos and sin are computed in FP32 (FP16
holds integers exactly only to 2048) and only the tables are cast. DESIGN.md has the figures.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.onnx import ops

from export.config import EncoderConfig
from export.weights import Slot


class Table(nn.Module):
    """An embedding table, ``[entries, width]``."""

    def __init__(self, entries: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(entries, width, dtype=dtype))


class Linear(nn.Module):
    """``x·W + b`` with W ``[in, out]``: one MatMul and one Add in the graph, no transpose."""

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(outputs, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` → ``[..., out]``."""
        return torch.matmul(x, self.weight) + self.bias


class Layer(nn.Module):
    """One post-norm transformer layer: residual sums and LayerNorm in FP32."""

    def __init__(self, config: EncoderConfig, dtype: torch.dtype) -> None:
        super().__init__()
        h, ff = config.hidden, config.intermediate
        self.heads, self.dtype = config.heads, dtype
        self.mixer = nn.ModuleDict(
            {"Wqkv": Linear(h, 3 * h, dtype), "out_proj": Linear(h, h, dtype)}
        )
        self.mlp = nn.ModuleDict({"fc1": Linear(h, ff, dtype), "fc2": Linear(ff, h, dtype)})
        self.norm1 = nn.LayerNorm(h, config.layer_norm_eps)
        self.norm2 = nn.LayerNorm(h, config.layer_norm_eps)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor, Tensor], mask: Tensor) -> Tensor:
        """``x [batch, sequence, hidden]`` FP32 → the same; ``rope`` is (cos, sin, positions)."""
        cos, sin, positions = rope
        x = x.to(self.dtype)
        q, k, v = self.mixer["Wqkv"](x).chunk(3, dim=-1)
        q = ops.rotary_embedding(q, cos, sin, positions, num_heads=self.heads)
        k = ops.rotary_embedding(k, cos, sin, positions, num_heads=self.heads)
        y = ops.attention(q, k, v, mask, q_num_heads=self.heads, kv_num_heads=self.heads)[0]
        x = self.norm1(x.float() + self.mixer["out_proj"](y).float()).to(self.dtype)
        y = self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](x)))
        normed: Tensor = self.norm2(x.float() + y.float())
        return normed


class Rope(nn.Module):
    """The cos and sin tables, ``[max_tokens, head_dim / 2]``."""

    def __init__(self, config: EncoderConfig, max_tokens: int, dtype: torch.dtype) -> None:
        super().__init__()
        shape = (max_tokens, config.head_dim // 2)
        self.cos = nn.Parameter(torch.empty(shape, dtype=dtype))
        self.sin = nn.Parameter(torch.empty(shape, dtype=dtype))


class Embeddings(nn.Module):
    """Word vectors plus the vector of token type 0, the only one the model uses."""

    def __init__(self, config: EncoderConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.word_embeddings = Table(config.vocab, config.hidden, dtype)
        self.token_type_embeddings = Table(config.token_types, config.hidden, torch.float32)

    def forward(self, input_ids: Tensor) -> Tensor:
        """``[batch, sequence]`` → FP32 ``[batch, sequence, hidden]``."""
        words = nn.functional.embedding(input_ids, self.word_embeddings.weight)
        return words.float() + self.token_type_embeddings.weight[0]


class Layers(nn.Module):
    """The stack; a module of its own for the parameters' names."""

    def __init__(self, config: EncoderConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, dtype) for _ in range(config.layers))


class Encoder(nn.Module):
    """Token ids to unit vectors."""

    def __init__(self, config: EncoderConfig, dtype: torch.dtype, max_tokens: int) -> None:
        super().__init__()
        h = config.hidden
        self.embeddings = Embeddings(config, dtype)
        self.emb_ln = nn.LayerNorm(h, config.layer_norm_eps)
        self.encoder = Layers(config, dtype)
        self.rope = Rope(config, max_tokens, dtype)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``input_ids``, ``attention_mask`` int64 ``[batch, sequence]`` → FP32 ``[batch, hidden]``.

        Every row must have at least one unmasked token; rows of the result have length 1.
        """
        batch, sequence = input_ids.shape
        x = self.emb_ln(self.embeddings(input_ids))
        positions = torch.arange(sequence, device=input_ids.device).unsqueeze(0)
        rope = (self.rope.cos, self.rope.sin, positions.expand(batch, sequence))
        keys = attention_mask.to(torch.bool)[:, None, None, :]
        # ONNX Runtime wants the query length in the mask's shape; TensorRT's copy drops the Expand.
        mask = keys.expand(batch, 1, sequence, sequence)
        for layer in self.encoder.layers:
            x = layer(x, rope, mask)
        return unit_mean(x, attention_mask)


def unit_mean(x: Tensor, attention_mask: Tensor) -> Tensor:
    """The L2-normalised mean of the unmasked token vectors, in FP32."""
    weights = attention_mask.to(torch.float32).unsqueeze(-1)
    mean = (x * weights).sum(1) / weights.sum(1)
    unit: Tensor = mean / torch.linalg.vector_norm(mean, dim=-1, keepdim=True)
    return unit


def load_encoder(
    config: EncoderConfig, dtype: str, max_tokens: int, weights: Path, slots: tuple[Slot, ...]
) -> Encoder:
    """The module with the very weights of a bundle, mapped from its weight file."""
    with torch.device("meta"):
        encoder = Encoder(config, getattr(torch, dtype), max_tokens).eval()
    state = {}
    for slot in slots:
        raw = np.memmap(weights, np.uint8, "c", slot.offset, (slot.nbytes,))
        state[slot.name] = torch.from_numpy(raw).view(getattr(torch, slot.dtype)).view(slot.shape)
    encoder.load_state_dict(state, strict=True, assign=True)
    return encoder
