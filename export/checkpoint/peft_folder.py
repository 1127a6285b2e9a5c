"""A PEFT LoRA folder (``adapter_config.json`` + ``adapter_model.safetensors``) as an Adapter.

Reads published adapters and users' own fine-tunes: any rank, alpha, rank-stabilised scaling and
any subset of target modules. What would change the arithmetic in a way this project does not
reproduce (DoRA, trained biases, whole saved modules) is refused.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from export.checkpoint.encoder_config import EncoderConfig
from export.checkpoint.family import Block, Family
from export.checkpoint.lora import Adapter, LoraPair, fuse_columns
from export.checkpoint.names import Module, adaptable_modules
from export.checkpoint.peft_config import LoraSettings, read_lora_settings
from export.checkpoint.tensors import SafetensorFiles, plain
from runtimes.errors import InputError, shown

_KEY = re.compile(r"(?P<module>.+)\.(?P<side>lora_A|lora_B|lora_embedding_A|lora_embedding_B)")
Sides = dict[str, str]  # A and B → the tensor's key


def read_peft_adapter(folder: Path, task: str, family: Family, config: EncoderConfig) -> Adapter:
    """The adapter in ``folder`` under the name ``task``; raises :class:`InputError`."""
    settings = read_lora_settings(folder)
    files = SafetensorFiles(folder, "adapter_model", sharded=False)
    modules = adaptable_modules(config)
    blocks = _blocks(files, family, config)
    if not blocks:
        raise InputError(f"{folder}: the adapter holds no tensors; save it again with PEFT")
    pairs = {
        block: _read_pair(files, sides, block, modules[block.module], settings)
        for block, sides in blocks.items()
    }
    return Adapter(task, _fuse(pairs, modules))


def _blocks(files: SafetensorFiles, family: Family, config: EncoderConfig) -> dict[Block, Sides]:
    """The keys of the adapter's tensors by what of the encoder they belong to."""
    modules = adaptable_modules(config)
    blocks: dict[Block, Sides] = defaultdict(dict)
    for key in sorted(files.names):
        match = _KEY.fullmatch(key.removesuffix(".weight"))
        block = match and family.peft.block(match["module"])
        if match is None or block is None or block.module not in modules:
            known = dict.fromkeys(name.rpartition(".")[2] for name in family.peft.modules)
            raise InputError(
                f"{files.path(key)}: unexpected tensor {plain(key)}, expected LoRA tensors of "
                f"{', '.join(known)} in {config.layers} layers; save it again with PEFT's "
                "save_embedding_layers=False"
            )
        if (first := blocks[block].setdefault(match["side"][-1], key)) != key:
            raise InputError(
                f"{files.path(key)}: {plain(first)} and {plain(key)} are of one module; "
                "save the adapter again with PEFT"
            )
    return blocks


def _read_pair(
    files: SafetensorFiles,
    sides: Sides,
    block: Block,
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
    columns = module.columns // block.count
    for key, shape in ((sides["A"], (rank, module.rows)), (sides["B"], (columns, rank))):
        if (got := files.shape(key)) != shape:
            raise InputError(
                f"{files.path(key)}: {key} has shape {shown(list(got))}, expected {list(shape)}; "
                "the adapter was trained on another model or its rank differs from its config"
            )
    a, b = files.read(sides["A"]), files.read(sides["B"])
    scaling = alpha / (rank**0.5 if settings.rslora else rank)
    return LoraPair(np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), scaling)


def _fuse(pairs: dict[Block, LoraPair], modules: dict[str, Module]) -> dict[str, LoraPair]:
    """One update for each module from those of its blocks."""
    fused = {block.module: pair for block, pair in pairs.items() if block.count == 1}
    split = {block.module: block.count for block in pairs if block.count > 1}
    for name, count in split.items():
        if name in fused:
            raise InputError(f"adapter: {name} is given both fused and split into {count} parts")
        parts = [pairs.get(Block(name, index, count)) for index in range(count)]
        pair = fuse_columns(parts, [modules[name].columns // count] * count)
        if pair is not None:
            fused[name] = pair
    return fused
