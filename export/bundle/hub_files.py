"""What clients of Hugging Face repositories read beside ``onnx/model.onnx``.

sentence-transformers takes modules, pooling and prompts from here, Optimum and transformers.js the
model's type and sizes. Every prompt is the bundle's own instruction: a merged bundle has one task,
and whatever a client calls then gives the vector that the embedder gives.
"""

from __future__ import annotations

from pathlib import Path

from export.bundle.staging import write_json
from runtimes.bundle_files import (
    CONFIG_FILE,
    MODULES_FILE,
    POOLING_FILE,
    PROMPTS_FILE,
)
from runtimes.files import read_json
from runtimes.manifest import Manifest
from runtimes.typed_json import JsonObject

_MODULES = ("Transformer", "Pooling", "Normalize")


def write_hub_files(folder: Path, source: Path, manifest: Manifest, weight_files: int) -> None:
    """Write them for a merged bundle; ``weight_files`` is how many its graph's tensors lie in.

    ``source`` is the checkpoint's folder.
    """
    original = read_json(source / CONFIG_FILE)
    prefix, task = manifest.prefixes[manifest.task], manifest.task
    width = manifest.architecture.hidden
    folders = {"Transformer": "", "Pooling": str(Path(POOLING_FILE).parent)}
    files: dict[str, JsonObject | list[JsonObject]] = {
        CONFIG_FILE: _model_config(original, manifest, weight_files),
        MODULES_FILE: [
            {
                "idx": i,
                "name": str(i),
                "path": folders.get(name, f"{i}_{name}"),
                "type": f"sentence_transformers.models.{name}",
            }
            for i, name in enumerate(_MODULES)
        ],
        POOLING_FILE: {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True},
        PROMPTS_FILE: {
            "prompts": dict.fromkeys(("query", "document", task), prefix),
            "default_prompt_name": task if prefix else None,
            "similarity_fn_name": "cosine",
        },
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_json(folder / name, content)


def _model_config(original: JsonObject, manifest: Manifest, weight_files: int) -> JsonObject:
    """The model in the words of transformers' XLM-RoBERTa, which every client knows.

    Nothing here names code: a checkpoint's ``auto_map`` stays behind.
    """
    shape = manifest.architecture
    names = ("bos_token_id", "eos_token_id")
    tokens: JsonObject = {k: original[k] for k in names if isinstance(original.get(k), int)}
    return {
        "architectures": ["XLMRobertaModel"],
        "model_type": "xlm-roberta",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.intermediate,
        "hidden_act": "gelu",
        "layer_norm_eps": shape.layer_norm_eps,
        "max_position_embeddings": shape.max_positions,
        "position_embedding_type": "rotary",
        "rotary_emb_base": shape.rope_theta,
        "type_vocab_size": shape.token_types,
        "pad_token_id": shape.pad_id,
        **tokens,
        "transformers.js_config": {
            "dtype": "fp32",  # the name of the file, model.onnx: its weights can be of any type
            "use_external_data_format": {"model.onnx": weight_files},
        },
    }
