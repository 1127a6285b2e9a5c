"""A PEFT LoRA folder (``adapter_config.json`` + ``adapter_model.safetensors``) as an Adapter.

Reads the native checkpoint's five folders and users' own fine-tunes: any rank, alpha,
rank-stabilised scaling and any subset of target modules. What would change the arithmetic in a
way this project does not reproduce (DoRA, trained biases, whole saved modules) is refused.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from export.checkpoint.config import EncoderConfig
from export.checkpoint.lora import Adapter, LoraPair, fuse_columns
from export.checkpoint.names import Module, adaptable_modules
from export.checkpoint.peft_config import LoraSettings, read_lora_settings
from export.checkpoint.tensors import SafetensorFiles, plain
from runtimes.errors import InputError, shown

_KEY = re.compile(r"(?P<module>.+)\.(?P<side>lora_A|lora_B|lora_embedding_A|lora_embedding_B)")
_QKV = ("q_proj", "k_proj", "v_proj")


def read_peft_adapter(folder: Path, task: str, config: EncoderConfig) -> Adapter:
    """The adapter in ``folder`` under the name ``task``; raises :class:`InputError`."""
    settings = read_lora_settings(folder)
    files = SafetensorFiles(folder, "adapter_model", sharded=False)
    modules = adaptable_modules(config)
    keys: dict[str, dict[str, str]] = defaultdict(dict)
    for key in sorted(files.names):
        match = _KEY.fullmatch(key.removesuffix(".weight"))
        name = match and _canonical(match["module"])
        if match is None or name is None or name.rpartition("#")[0] not in modules:
            raise InputError(
                f"{files.path(key)}: unexpected tensor {plain(key)}, expected LoRA tensors of "
                "word_embeddings, token_type_embeddings, Wqkv (or q/k/v_proj), out_proj, fc1, "
                f"fc2 or pooler.dense in {config.layers} layers; save it again with PEFT's "
                "save_embedding_layers=False"
            )
        if (first := keys[name].setdefault(match["side"][-1], key)) != key:
            raise InputError(
                f"{files.path(key)}: {plain(first)} and {plain(key)} are of one module; "
                "save the adapter again with PEFT"
            )
    if not keys:
        raise InputError(f"{folder}: the adapter holds no tensors; save it again with PEFT")
    pairs = {
        name: _read_pair(files, sides, name, modules[name.rpartition("#")[0]], settings)
        for name, sides in keys.items()
    }
    return Adapter(task, _fuse(pairs, config))


def _canonical(module: str) -> str | None:
    """The canonical module name plus ``#part``; part is q, k or v of a split Wqkv, else empty."""
    module = re.sub(r"^(base_model\.model\.)?(roberta\.|model\.)?(encoder\.)?", "", module)
    if match := re.fullmatch(r"layers\.(\d+)\.(?:self_attn|mixer)\.(\w+)", module):
        layer, part = f"encoder.layers.{match[1]}.mixer.", match[2]
        if part in _QKV:
            return f"{layer}Wqkv#{part}"
        known = {"o_proj": "out_proj", "out_proj": "out_proj", "Wqkv": "Wqkv"}
        return f"{layer}{known[part]}#" if part in known else None
    if module.startswith("layers."):
        module = "encoder." + module
    return module + "#"


def _read_pair(
    files: SafetensorFiles,
    sides: dict[str, str],
    name: str,
    module: Module,
    settings: LoraSettings,
) -> LoraPair:
    if missing := {"A", "B"} - set(sides):
        have = next(iter(sides.values()))
        raise InputError(f"{files.path(have)}: {have} has no lora_{missing.pop()} beside it")
    if module.embedding and "embedding" not in sides["A"]:
        raise InputError(f"{files.path(sides['A'])}: {sides['A']}, expected lora_embedding_A")
    peft_name = sides["A"].split(".lora_")[0].removeprefix("base_model.model.")
    rank, alpha = settings.rank(peft_name), settings.alpha(peft_name)
    columns = module.columns // 3 if name.rpartition("#")[2] else module.columns
    for key, shape in ((sides["A"], (rank, module.rows)), (sides["B"], (columns, rank))):
        if (got := files.shape(key)) != shape:
            raise InputError(
                f"{files.path(key)}: {key} has shape {shown(list(got))}, expected {list(shape)}; "
                "the adapter was trained on another model or its rank differs from its config"
            )
    a, b = files.read(sides["A"]), files.read(sides["B"])
    scaling = alpha / (rank**0.5 if settings.rslora else rank)
    return LoraPair(np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), scaling)


def _fuse(pairs: dict[str, LoraPair], config: EncoderConfig) -> dict[str, LoraPair]:
    fused = {name[:-1]: pair for name, pair in pairs.items() if name.endswith("#")}
    for layer in range(config.layers):
        name = f"encoder.layers.{layer}.mixer.Wqkv"
        parts = [pairs.get(f"{name}#{part}") for part in _QKV]
        if (pair := fuse_columns(parts, [config.hidden] * 3)) is not None:
            if name in fused:
                raise InputError(f"adapter: {name} is given both fused and split into q, k, v")
            fused[name] = pair
    return fused
