"""Another family, as one row of the table and one loader: other names, no token types, no pooler.

Its file has the query, key and value apart, other keys in config.json, and a PEFT folder for each
task. Its own implementation is transformers' ``JinaEmbeddingsV3Model`` with a token-type table of
zeros, which computes the same as none.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

from export.checkpoint.family import Block, ConfigKeys, Family, Fixed, PeftNames
from export.checkpoint.names import EMBEDDING_NORM, FC1, FC2, NORM1, NORM2, OUT, QKV, WORD
from export.checkpoint.reader import Checkpoint
from export.checkpoint.source import SAMPLE
from tests.peft_zoo import quiet

MODEL_TYPE = "plain_rope"
TASKS = ("query", "passage")
LAYERS, HEADS, HIDDEN, INNER, VOCAB = 2, 4, 64, 128, 16000
CONFIG: dict[str, Any] = {
    "model_type": MODEL_TYPE,
    "activation": "gelu",
    "width": HIDDEN,
    "depth": LAYERS,
    "heads": HEADS,
    "inner_width": INNER,
    "vocabulary": VOCAB,
    "positions": 8194,
    "epsilon": 1e-5,
    "rope": {"base": 500.0, "former_base": 10000.0},
    "pad": 1,
    "prompts": {"query": "search: "},
}
# Name in the file → the reference's; apart from the row's, so that a mistake in one shows.
REFERENCE = {
    "tok": "embeddings.word_embeddings",
    "tok_norm": "embeddings.LayerNorm",
    "blocks.{}.attn.query": "layers.{}.self_attn.q_proj",
    "blocks.{}.attn.key": "layers.{}.self_attn.k_proj",
    "blocks.{}.attn.value": "layers.{}.self_attn.v_proj",
    "blocks.{}.attn.merge": "layers.{}.self_attn.o_proj",
    "blocks.{}.attn.norm": "layers.{}.post_attention_layernorm",
    "blocks.{}.ff.up": "layers.{}.mlp.fc1",
    "blocks.{}.ff.down": "layers.{}.mlp.fc2",
    "blocks.{}.ff.norm": "layers.{}.post_mlp_layernorm",
}


def open_reference(source: Checkpoint | Path) -> Any:
    """The family's own implementation in FP32, from the files alone."""
    folder = source.folder if isinstance(source, Checkpoint) else source
    raw = json.loads((folder / "config.json").read_text())
    config = JinaEmbeddingsV3Config(
        vocab_size=raw["vocabulary"],
        hidden_size=raw["width"],
        num_hidden_layers=raw["depth"],
        num_attention_heads=raw["heads"],
        intermediate_size=raw["inner_width"],
        max_position_embeddings=raw["positions"],
        type_vocab_size=1,
        layer_norm_eps=raw["epsilon"],
        pad_token_id=raw["pad"],
        rope_parameters={"rope_type": "default", "rope_theta": raw["rope"]["base"]},
        attn_implementation="sdpa",
    )
    model = JinaEmbeddingsV3Model(config, add_pooling_layer=False)
    tensors = load_file(folder / "model.safetensors")
    state = {"embeddings.token_type_embeddings.weight": torch.zeros(1, raw["width"])}
    for layer in range(raw["depth"]):
        for name, theirs in REFERENCE.items():
            for part in ("weight", "bias"):
                if (key := f"{name.format(layer)}.{part}") in tensors:
                    state[f"{theirs.format(layer)}.{part}"] = torch.from_numpy(tensors[key])
    model.load_state_dict(state, strict=True)
    return model.eval()


FAMILY = Family(
    name="plain-rope",
    format="plain-rope",
    names={
        WORD: ("tok",),
        EMBEDDING_NORM: ("tok_norm",),
        QKV: ("blocks.{}.attn.query", "blocks.{}.attn.key", "blocks.{}.attn.value"),
        OUT: ("blocks.{}.attn.merge",),
        NORM1: ("blocks.{}.attn.norm",),
        FC1: ("blocks.{}.ff.up",),
        FC2: ("blocks.{}.ff.down",),
        NORM2: ("blocks.{}.ff.norm",),
    },
    reference=open_reference,
    peft=PeftNames(
        prefixes=(),
        modules={
            "embeddings.word_embeddings": Block(WORD),
            "layers.{}.self_attn.q_proj": Block(QKV, 0, 3),
            "layers.{}.self_attn.k_proj": Block(QKV, 1, 3),
            "layers.{}.self_attn.v_proj": Block(QKV, 2, 3),
            "layers.{}.self_attn.o_proj": Block(OUT),
            "layers.{}.mlp.fc1": Block(FC1),
            "layers.{}.mlp.fc2": Block(FC2),
        },
    ),
    config=ConfigKeys(
        hidden="width",
        layers="depth",
        heads="heads",
        intermediate="inner_width",
        vocab="vocabulary",
        token_types=None,
        max_positions="positions",
        layer_norm_eps="epsilon",
        rope_theta="rope.base",
        pad_id="pad",
        prefixes="prompts",
    ),
    fixed=(Fixed(key="activation", value="gelu", absent=None),),
    tasks=TASKS,
    dimensions=(16, 32),
)


def write_checkpoint(folder: Path, seed: int = 0) -> Path:
    """A random checkpoint with a visibly strong adapter for each task."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    shutil.copyfile(SAMPLE / "tokenizer.json", folder / "tokenizer.json")
    rng = np.random.default_rng(seed)
    shapes = {"tok": (VOCAB, HIDDEN), "tok_norm": (HIDDEN,)}
    for layer in range(LAYERS):
        stem = f"blocks.{layer}"
        shapes |= {f"{stem}.attn.{part}": (HIDDEN, HIDDEN) for part in ("query", "key", "value")}
        shapes |= {f"{stem}.attn.merge": (HIDDEN, HIDDEN), f"{stem}.attn.norm": (HIDDEN,)}
        shapes |= {f"{stem}.ff.up": (INNER, HIDDEN), f"{stem}.ff.down": (HIDDEN, INNER)}
        shapes[f"{stem}.ff.norm"] = (HIDDEN,)
    tensors = {}
    for name, shape in shapes.items():
        spread = {"tok": 0.05, "attn.query": 3.0, "attn.key": 3.0}  # heads that look somewhere
        scale = next((s for end, s in spread.items() if name.endswith(end)), 1.0)
        norm = len(shape) == 1
        deviation = 0.1 if norm else scale if name == "tok" else scale * shape[1] ** -0.5
        tensors[f"{name}.weight"] = rng.normal(float(norm), deviation, shape).astype(np.float32)
        if name != "tok":
            tensors[f"{name}.bias"] = rng.normal(0, 0.1, shape[0]).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    for number, task in enumerate(TASKS):
        write_adapter(folder, folder / task, seed=number + 1)
    return folder


def write_adapter(model: Path, folder: Path, *, seed: int) -> None:
    """PEFT's own folder of an adapter on every kind of module."""
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2", "word_embeddings"]
    torch.manual_seed(seed)
    with quiet():
        adapted = get_peft_model(
            open_reference(model), LoraConfig(r=2, lora_alpha=3, target_modules=targets)
        )
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        adapted.save_pretrained(str(folder))
