"""Adapters made by PEFT itself on transformers' own model: the reference for what we read."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from torch.nn.functional import normalize
from transformers import JinaEmbeddingsV3Model
from transformers.utils import logging as hf

from tests.support import Array

RENAMES = (
    ("embeddings.LayerNorm", "emb_ln"),
    ("layers.", "encoder.layers."),
    ("self_attn.o_proj", "mixer.out_proj"),
    ("post_attention_layernorm", "norm1"),
    ("post_mlp_layernorm", "norm2"),
)


@contextmanager
def quiet() -> Iterator[None]:
    """transformers and PEFT warn of their own deprecations, and show progress bars."""
    level = logging.getLogger("peft").level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hf.disable_progress_bar()
        try:
            yield
        finally:
            hf.enable_progress_bar()
            logging.getLogger("peft").setLevel(level)


def load_base(native: Path) -> Any:
    """The native checkpoint in FP32, as a user of transformers opens it."""
    with quiet():
        return JinaEmbeddingsV3Model.from_pretrained(
            native, dtype=torch.float32, use_safetensors=True, local_files_only=True
        ).eval()


def train(native: Path, folder: Path, config: PeftConfig, *, seed: int = 0) -> Any:
    """Save a "trained" (random, visibly strong) adapter in ``folder``; the PEFT model."""
    torch.manual_seed(seed)
    base = load_base(native)
    with quiet():
        model = get_peft_model(base, config)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        model.save_pretrained(str(folder))
    return model


def train_in_transformers(native: Path, folder: Path, config: LoraConfig) -> Any:
    """The same through transformers' PEFT integration (``model.add_adapter``)."""
    torch.manual_seed(1)
    model = load_base(native)
    with quiet():
        model.add_adapter(config, "mine")
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        model.save_pretrained(str(folder))
    return model


def merged_weights(model: Any) -> dict[str, Array]:
    """What PEFT's own merge gives, under our names, matrices as the graph wants them."""
    with quiet():
        merged = model.merge_and_unload()
    state = {}
    for key, value in merged.state_dict().items():
        for old, new in RENAMES:
            key = key.replace(old, new)
        linear = value.ndim == 2 and "embeddings" not in key
        state[key] = (value.T if linear else value).detach().numpy()
    for layer in range(merged.config.num_hidden_layers):
        stem = f"encoder.layers.{layer}."
        parts = [torch.tensor(state.pop(f"{stem}self_attn.{p}_proj.weight")) for p in "qkv"]
        state[f"{stem}mixer.Wqkv.weight"] = torch.cat(parts, 1).numpy()
    return state


def mean_vectors(model: Any, rows: list[Array]) -> Array:
    """Mean-pooled unit vectors, one unpadded text at a time."""
    vectors = []
    with torch.inference_mode():
        for ids in rows:
            hidden = model(input_ids=torch.from_numpy(ids)[None]).last_hidden_state[0]
            vectors.append(normalize(hidden.mean(0), dim=0))
    return torch.stack(vectors).numpy()
