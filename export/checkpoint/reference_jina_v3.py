"""jina-embeddings-v3 in PyTorch: transformers' ``JinaEmbeddingsV3Model`` with a file's tensors.

Tensors are taken by the names they have in the file, and nothing of the table of families takes
part, so that the gate sees a wrong row. transformers opens no file of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export.checkpoint.encoder_config import EncoderConfig
from export.checkpoint.reader import Checkpoint

_PARAMETRIZATION = ".parametrizations.weight."
# The original file's module names → transformers' (its own conversion mapping for this
# architecture).
_RENAMES = (
    ("roberta.", ""),
    ("emb_ln", "embeddings.LayerNorm"),
    ("encoder.layers", "layers"),
    ("mixer.out_proj", "self_attn.o_proj"),
    ("norm1", "post_attention_layernorm"),
    ("norm2", "post_mlp_layernorm"),
)


def open_native(checkpoint: Checkpoint) -> nn.Module:
    """The base model of the native format, converted by transformers itself."""
    from transformers import JinaEmbeddingsV3Model

    files = checkpoint.files
    model: nn.Module = JinaEmbeddingsV3Model.from_pretrained(
        None,
        config=_transformers_config(checkpoint.config),
        state_dict={key: torch.from_numpy(files.read(key)) for key in files.names},
        dtype=torch.float32,
        attn_implementation="sdpa",
    )
    return model


def open_original(checkpoint: Checkpoint) -> nn.Module:
    """The base model of the original format."""
    from transformers import JinaEmbeddingsV3Model
    from transformers.initialization import no_init_weights

    with no_init_weights():  # every weight is replaced at once
        model: nn.Module = JinaEmbeddingsV3Model(_transformers_config(checkpoint.config))
    state = {}
    for key in checkpoint.files.names:
        name = key.replace(f"{_PARAMETRIZATION}original", ".weight")
        if _PARAMETRIZATION in name:  # an adapter's
            continue
        for part, value in _split_qkv(_renamed(name), checkpoint.files.read(key)):
            state[part] = torch.from_numpy(value)
    model.load_state_dict(state, strict=True, assign=True)
    return model


def peft_state(checkpoint: Checkpoint, task: str) -> dict[str, torch.Tensor]:
    """One task's A and B of the original format, as PEFT would save them for the base model."""
    index = checkpoint.config.tasks.index(task)
    state: dict[str, torch.Tensor] = {}
    for key in checkpoint.files.names:
        name, parametrized, side = key.partition(f"{_PARAMETRIZATION}0.lora_")
        if not parametrized:
            continue
        value, module = checkpoint.files.read(key, index), _renamed(name)
        if module.startswith("embeddings."):  # PEFT stores embedding factors transposed
            state[f"{module}.lora_embedding_{side}"] = torch.from_numpy(value.T.copy())
            continue
        parts = _split_qkv(module, value) if side == "B" else _each_of_qkv(module, value)
        for part, factor in parts:
            state[f"{part}.lora_{side}.weight"] = torch.from_numpy(factor)
    return state


def _transformers_config(c: EncoderConfig) -> Any:
    from transformers import JinaEmbeddingsV3Config

    return JinaEmbeddingsV3Config(
        vocab_size=c.vocab,
        hidden_size=c.hidden,
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        intermediate_size=c.intermediate,
        max_position_embeddings=c.max_positions,
        type_vocab_size=c.token_types,
        layer_norm_eps=c.layer_norm_eps,
        pad_token_id=c.pad_id,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        attn_implementation="sdpa",
    )


def _renamed(name: str) -> str:
    for old, new in _RENAMES:
        name = name.replace(old, new)
    return name


def _split_qkv(name: str, value: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Blocks of rows of a fused layer under the names of the three; others as they are."""
    parts = list(_each_of_qkv(name, value))
    for (part, _), rows in zip(parts, np.split(value, len(parts)), strict=True):
        yield part, np.ascontiguousarray(rows)


def _each_of_qkv(
    name: str, value: NDArray[np.float32]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The same value under each of the three names; others as they are."""
    for part in "qkv" if "mixer.Wqkv" in name else "-":
        yield name.replace("mixer.Wqkv", f"self_attn.{part}_proj"), value
