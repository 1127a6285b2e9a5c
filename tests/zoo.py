"""Random checkpoints of any size in both formats, for tests and benchmarks.

``python -m tests.zoo FOLDER --size full`` writes the original format at the real model's size.
The tokenizer is the embedded sample's, so ids stay below its 16,000 whatever ``vocab`` is.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

from export.checkpoint.families import JINA_TASKS
from export.checkpoint.source import SAMPLE

Tensors = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Size:
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    intermediate: int = 128
    vocab: int = 16000
    rank: int = 4


SIZES = {
    "small": Size(),
    "mid": Size(hidden=1024, layers=6, heads=16, intermediate=4096),
    "full": Size(hidden=1024, layers=24, heads=16, intermediate=4096, vocab=250002),
}


def write_original(folder: Path, size: Size = SIZES["small"], seed: int = 0) -> Path:
    """A random checkpoint in the original format, BF16."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((SAMPLE / "config.json").read_text())
    config |= {
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "vocab_size": size.vocab,
        "num_attention_heads": size.heads,
        "intermediate_size": size.intermediate,
        "lora_rank": size.rank,
        "matryoshka_dimensions": [
            d for d in (32, 64, 128, 256, 512, 768, 1024) if d <= size.hidden
        ],
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    shutil.copyfile(SAMPLE / "tokenizer.json", folder / "tokenizer.json")
    save_file(_tensors(size, np.random.default_rng(seed)), folder / "model.safetensors")
    return folder


def _tensors(size: Size, rng: np.random.Generator) -> Tensors:
    """All tensors: deviations that keep activations near those of a trained model.

    The embedding adapters are as strong as their tables and the others a tenth of their layer, so
    that every task's vectors differ visibly from the base's.
    """
    h, ff, tasks = size.hidden, size.intermediate, len(JINA_TASKS)
    tensors: Tensors = {}

    def put(name: str, shape: tuple[int, ...], deviation: float, mean: float = 0.0) -> None:
        values = rng.standard_normal(shape, np.float32) * np.float32(deviation) + np.float32(mean)
        tensors["roberta." + name] = values.astype(ml_dtypes.bfloat16)

    def matrix(name: str, rows: int, columns: int, *, embedding: bool = False) -> None:
        stem = f"{name}.parametrizations.weight."
        deviation = 0.05 if embedding else columns**-0.5
        put(stem + "original", (rows, columns), deviation)
        inner = deviation**0.5
        sides = ((rows, size.rank), (size.rank, columns))
        if not embedding:
            sides = ((size.rank, columns), (rows, size.rank))
        put(stem + "0.lora_A", (tasks, *sides[0]), inner)
        put(stem + "0.lora_B", (tasks, *sides[1]), inner)

    def norm(name: str) -> None:
        put(f"{name}.weight", (h,), 0.1, mean=1.0)
        put(f"{name}.bias", (h,), 0.1)

    matrix("embeddings.word_embeddings", size.vocab, h, embedding=True)
    matrix("embeddings.token_type_embeddings", 1, h, embedding=True)
    matrix("pooler.dense", h, h)
    put("pooler.dense.bias", (h,), 0.1)
    norm("emb_ln")
    for layer in range(size.layers):
        prefix = f"encoder.layers.{layer}."
        for name, rows, columns in (
            ("mixer.Wqkv", 3 * h, h),
            ("mixer.out_proj", h, h),
            ("mlp.fc1", ff, h),
            ("mlp.fc2", h, ff),
        ):
            matrix(prefix + name, rows, columns)
            put(f"{prefix}{name}.bias", (rows,), 0.1)
        norm(prefix + "norm1")
        norm(prefix + "norm2")
    return tensors


def write_native(original: Path, folder: Path, *, adapters: bool = False) -> Path:
    """An original checkpoint in the native format; without its adapters unless asked for."""
    folder.mkdir(parents=True)
    config = json.loads((original / "config.json").read_text())
    kept = {
        k: config[k]
        for k in (
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "vocab_size",
            "type_vocab_size",
            "max_position_embeddings",
            "layer_norm_eps",
            "pad_token_id",
            "hidden_act",
        )
    }
    kept |= {
        "model_type": "jina_embeddings_v3",
        "architectures": ["JinaEmbeddingsV3Model"],
        "rope_parameters": {"rope_type": "default", "rope_theta": config["rotary_emb_base"]},
    }
    (folder / "config.json").write_text(json.dumps(kept))
    shutil.copyfile(original / "tokenizer.json", folder / "tokenizer.json")
    tensors = load_file(original / "model.safetensors")
    base = {
        re.sub(r"\.parametrizations\.weight\.original$", ".weight", k).removeprefix("roberta."): v
        for k, v in tensors.items()
        if "lora_" not in k
    }
    save_file(base, folder / "model.safetensors", metadata={"format": "pt"})
    if adapters:
        for number, task in enumerate(JINA_TASKS):
            _write_adapter(folder / re.sub(r"\W", "_", task), tensors, number, config["lora_rank"])
    return folder


def _write_adapter(folder: Path, tensors: Tensors, number: int, rank: int) -> None:
    """One task's entry of the banks as PEFT saves it: embeddings transposed, q, k and v apart."""
    folder.mkdir()
    peft: Tensors = {}
    for key, bank in tensors.items():
        module, _, side = key.removeprefix("roberta.").partition(".parametrizations.weight.0.lora_")
        if side:
            for name, value in _peft_parts(module, side, bank[number]).items():
                peft[f"base_model.model.{name}"] = np.ascontiguousarray(value, np.float32)
    save_file(peft, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = sorted({key.rpartition(".lora_")[0].rpartition(".")[2] for key in peft})
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 1, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def _peft_parts(module: str, side: str, value: np.ndarray[Any, Any]) -> Tensors:
    """What PEFT calls a module's A or B."""
    if "embeddings" in module:
        return {f"{module}.lora_embedding_{side}": value.T}
    module = module.replace("encoder.", "").replace("mixer.out_proj", "self_attn.o_proj")
    if not module.endswith("mixer.Wqkv"):
        return {f"{module}.lora_{side}.weight": value}
    parts = [value] * 3 if side == "A" else np.split(value, 3)
    stem = module.removesuffix("mixer.Wqkv") + "self_attn."
    return {f"{stem}{n}_proj.lora_{side}.weight": p for n, p in zip("qkv", parts, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="small")
    arguments = parser.parse_args()
    write_original(arguments.folder, SIZES[arguments.size])


if __name__ == "__main__":
    main()
