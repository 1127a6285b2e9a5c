"""The reference encoder: transformers' ``JinaEmbeddingsV3Model`` with the PEFT adapter active.

Nothing of this project's adapter arithmetic takes part: a native checkpoint's and a PEFT folder's
tensors are given to transformers and PEFT by their own names, and an original checkpoint's A and B
go into PEFT's layers as they are stored, with PEFT computing the scaling. Neither library opens a
file of a checkpoint: they would follow keys that were not checked, to quantisers, other
adapters and initialisations.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from export.checkpoint.config import EncoderConfig
from export.checkpoint.names import adaptable_modules, tensor_shapes
from export.checkpoint.peft_config import read_lora_settings
from export.checkpoint.reader import Checkpoint, lora_key
from export.checkpoint.tensors import SafetensorFiles
from runtimes.choices import BASE_TASK
from runtimes.errors import AdaptrtError, InputError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ADAPTER = "task"
# Canonical module names → transformers' (its own conversion mapping for this architecture).
_RENAMES = (
    ("emb_ln", "embeddings.LayerNorm"),
    ("encoder.layers", "layers"),
    ("mixer.out_proj", "self_attn.o_proj"),
    ("norm1", "post_attention_layernorm"),
    ("norm2", "post_mlp_layernorm"),
)


def reference_model(checkpoint: Checkpoint, task: str) -> nn.Module:
    """The FP32 reference for one task, attention through scaled-dot-product attention."""
    with _quiet():
        if checkpoint.format == "native":
            model: nn.Module = _native_base(checkpoint)
        else:
            model = _base_from_original(checkpoint)
        if task == BASE_TASK:
            return model
        if task == checkpoint.adapter_task and checkpoint.adapter_path is not None:
            _load_folder(model, checkpoint.adapter_path)
        elif checkpoint.format == "native":
            _load_folder(model, checkpoint.adapter_folder(task))
        else:
            _load_bank_entry(model, checkpoint, task)
    return model


def _native_base(checkpoint: Checkpoint) -> Any:
    from transformers import JinaEmbeddingsV3Model

    return JinaEmbeddingsV3Model.from_pretrained(
        None,
        config=_transformers_config(checkpoint.config),
        state_dict=_tensors(checkpoint.files),
        dtype=torch.float32,
        attn_implementation="sdpa",
    )


def _tensors(files: SafetensorFiles) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(files.read(name)) for name in files.names}


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


def _base_from_original(checkpoint: Checkpoint) -> Any:
    from transformers import JinaEmbeddingsV3Model

    with no_init():
        model = JinaEmbeddingsV3Model(_transformers_config(checkpoint.config))
    state = {}
    for name in tensor_shapes(checkpoint.config):
        for key, value in _split_qkv(name, checkpoint.read(name)):
            state[_renamed(key)] = torch.from_numpy(value)
    model.load_state_dict(state, strict=True, assign=True)
    return model


def _load_folder(model: Any, folder: Path) -> None:
    """PEFT's own loading; then every tensor of the file must be found in the model's layers.

    PEFT leaves a layer it could not fill at its initial value, where it changes nothing.
    """
    from peft import LoraConfig

    state = _tensors(SafetensorFiles(folder, "adapter_model", sharded=False))
    try:
        lora = LoraConfig(**read_lora_settings(folder).checked)
        model.load_adapter(peft_config=lora, adapter_state_dict=dict(state), adapter_name=_ADAPTER)
    except ValueError as error:  # target_modules that match nothing, for one
        reason = one_line(str(error))[:200]
        raise InputError(f"{folder}: PEFT refuses the adapter ({reason}); save it again") from error
    model.set_adapter(_ADAPTER)
    _check_loaded(model, [value.numpy() for value in state.values()], folder)


def _load_bank_entry(model: Any, checkpoint: Checkpoint, task: str) -> None:
    from peft import LoraConfig

    index, config = checkpoint.config.tasks.index(task), checkpoint.config
    state: dict[str, torch.Tensor] = {}
    for module in adaptable_modules(config).values():
        a = checkpoint.files.read(lora_key(module.name, "A"), index)
        b = checkpoint.files.read(lora_key(module.name, "B"), index)
        if module.embedding:  # PEFT stores embedding factors transposed
            state[f"{module.name}.lora_embedding_A"] = torch.from_numpy(a.T.copy())
            state[f"{module.name}.lora_embedding_B"] = torch.from_numpy(b.T.copy())
            continue
        for name, part in _split_qkv(module.name, b):
            state[f"{_renamed(name)}.lora_A.weight"] = torch.from_numpy(a)
            state[f"{_renamed(name)}.lora_B.weight"] = torch.from_numpy(part)
    targets = sorted({key.split(".lora_")[0] for key in state})
    lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=targets)
    model.load_adapter(peft_config=lora, adapter_state_dict=state, adapter_name=_ADAPTER)
    model.set_adapter(_ADAPTER)
    _check_loaded(model, [v.numpy() for v in state.values()], checkpoint.folder)


def _check_loaded(model: nn.Module, expected: list[NDArray[np.float32]], source: Path) -> None:
    loaded = Counter(
        _digest(p.detach().float().numpy()) for n, p in model.named_parameters() if "lora_" in n
    )
    if missing := Counter(map(_digest, expected)) - loaded:
        raise AdaptrtError(
            f"{source}: the reference did not load {missing.total()} of {len(expected)} adapter "
            "tensors; its names do not match transformers' modules"
        )


def _digest(array: NDArray[np.float32]) -> tuple[tuple[int, ...], str]:
    return array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _split_qkv(name: str, value: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    if "Wqkv" not in name:
        yield name, value
        return
    for part, rows in zip("qkv", np.split(value, 3), strict=True):
        yield name.replace("mixer.Wqkv", f"self_attn.{part}_proj"), np.ascontiguousarray(rows)


def _renamed(name: str) -> str:
    for old, new in _RENAMES:
        name = name.replace(old, new)
    return name


@contextmanager
def no_init() -> Iterator[None]:
    """Skips random initialisation of weights that are replaced at once."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps load reports and progress bars of transformers and PEFT out of our output."""
    from transformers.utils import logging as hf

    bars, level = hf.is_progress_bar_enabled(), hf.get_verbosity()
    peft_level = logging.getLogger("peft").level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            hf.disable_progress_bar()
            hf.set_verbosity_error()
            yield
        finally:
            hf.set_verbosity(level)
            logging.getLogger("peft").setLevel(peft_level)
            if bars:
                hf.enable_progress_bar()
