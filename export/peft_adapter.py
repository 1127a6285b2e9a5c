"""A PEFT LoRA folder (``adapter_config.json`` + ``adapter_model.safetensors``) as an Adapter.

Reads the native checkpoint's five folders and users' own fine-tunes: any rank, alpha,
rank-stabilised scaling and any subset of target modules. What would change the arithmetic in a
way this project does not reproduce (DoRA, trained biases, whole saved modules) is refused.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from export.adapters import Adapter, LoraPair, fuse_columns
from export.config import EncoderConfig
from export.modules import Module, adaptable_modules
from export.safetensor_files import SafetensorFiles
from runtimes.errors import InputError
from runtimes.files import read_json

_KEY = re.compile(r"(?P<module>.+)\.(?P<side>lora_A|lora_B|lora_embedding_A|lora_embedding_B)")
# PEFT variants whose update is not scaling · B · A.
_UNSUPPORTED = (
    "use_dora", "use_qalora", "use_bdlora", "lora_bias", "fan_in_fan_out", "modules_to_save",
    "layer_replication", "target_parameters", "trainable_token_indices",
    "alora_invocation_tokens", "arrow_config", "monteclora_config", "velora_config",
)  # fmt: skip
# Initialisations that also change the base weights, which the adapter file does not hold.
_CHANGE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
_QKV = ("q_proj", "k_proj", "v_proj")


def read_peft_adapter(folder: Path, task: str, config: EncoderConfig) -> Adapter:
    """The adapter in ``folder`` under the name ``task``; raises :class:`InputError`."""
    path = folder / "adapter_config.json"
    raw = read_json(path)
    _check_supported(path, raw)
    files = SafetensorFiles(folder, "adapter_model")
    modules = adaptable_modules(config)
    keys: dict[str, dict[str, str]] = defaultdict(dict)
    for key in sorted(files.names):
        match = _KEY.fullmatch(key.removesuffix(".weight"))
        name = match and _canonical(match["module"])
        if match is None or name is None or name.rpartition("#")[0] not in modules:
            raise InputError(
                f"{files.path(key)}: unexpected tensor {key}, expected LoRA tensors of "
                "word_embeddings, token_type_embeddings, Wqkv (or q/k/v_proj), out_proj, fc1, "
                f"fc2 or pooler.dense in {config.layers} layers"
            )
        keys[name][match["side"][-1]] = key
    if not keys:
        raise InputError(f"{folder}: the adapter holds no tensors; save it again with PEFT")
    pairs = {
        name: _read_pair(files, sides, name, modules[name.rpartition("#")[0]], raw, path)
        for name, sides in keys.items()
    }
    return Adapter(task, _fuse(pairs, config))


def _check_supported(path: Path, raw: dict[str, Any]) -> None:
    if raw.get("peft_type") != "LORA":
        raise InputError(f"{path}: peft_type is {raw.get('peft_type')!r}, expected 'LORA'")
    used = [key for key in _UNSUPPORTED if raw.get(key)]
    if str(raw.get("init_lora_weights")).startswith(_CHANGE_BASE):
        used.append(f"init_lora_weights {raw['init_lora_weights']!r}")
    if raw.get("bias", "none") != "none":
        used.append("bias")
    if used:
        raise InputError(
            f"{path}: uses {', '.join(used)}, expected plain LoRA; "
            "merge the adapter with PEFT's merge_and_unload, or train without it"
        )
    alpha, rank = raw.get("lora_alpha"), raw.get("r")
    if not isinstance(alpha, int | float) or not isinstance(rank, int) or rank < 1:
        raise InputError(f"{path}: r is {rank!r} and lora_alpha {alpha!r}, expected numbers")


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
    raw: dict[str, Any],
    path: Path,
) -> LoraPair:
    if missing := {"A", "B"} - set(sides):
        have = next(iter(sides.values()))
        raise InputError(f"{files.path(have)}: {have} has no lora_{missing.pop()} beside it")
    a, b = files.read(sides["A"]), files.read(sides["B"])
    if module.embedding and "embedding" not in sides["A"]:
        raise InputError(f"{files.path(sides['A'])}: {sides['A']}, expected lora_embedding_A")
    rank = _pattern(raw, "rank_pattern", sides["A"], raw["r"])
    columns = module.columns // 3 if name.rpartition("#")[2] else module.columns
    for key, value, shape in ((sides["A"], a, (rank, module.rows)),
                              (sides["B"], b, (columns, rank))):  # fmt: skip
        if value.shape != shape:
            raise InputError(
                f"{files.path(key)}: {key} has shape {list(value.shape)}, expected {list(shape)}; "
                "the adapter was trained on another model or its rank differs from its config"
            )
    alpha = _pattern(raw, "alpha_pattern", sides["A"], raw["lora_alpha"])
    scaling = alpha / (rank**0.5 if raw.get("use_rslora") else rank)
    if not np.isfinite(scaling):
        raise InputError(f"{path}: lora_alpha {alpha} over rank {rank} is not a finite scaling")
    return LoraPair(np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), scaling)


def _pattern(raw: dict[str, Any], table: str, key: str, default: Any) -> Any:
    """PEFT's per-module override: the first pattern that matches the module's name to its end."""
    module = key.split(".lora_")[0].removeprefix("base_model.model.")
    patterns = raw.get(table) or {}
    if not isinstance(patterns, dict):
        raise InputError(f"adapter: {table} is {patterns!r}, expected an object")
    for pattern, value in patterns.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"adapter: {table} of {pattern!r} is {value!r}, expected a number")
        try:
            matched = re.match(rf"(.*\.)?({pattern})$", module)
        except re.error as error:
            raise InputError(f"adapter: {table} {pattern!r} is not a pattern ({error})") from error
        if matched:
            return value
    return default


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
