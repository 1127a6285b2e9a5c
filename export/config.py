"""The encoder's shape and the model card's facts, read from either format's config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from export.spec import BASE_TASK, JINA_TASKS
from runtimes.errors import InputError
from runtimes.files import read_json

# The native format's config.json carries neither; these are the published model's values.
JINA_PREFIXES = {
    "retrieval.query": "Represent the query for retrieving evidence documents: ",
    "retrieval.passage": "Represent the document for retrieval: ",
}
MATRYOSHKA = (32, 64, 128, 256, 512, 768, 1024)
T = TypeVar("T")
MODEL_TYPES = {"xlm-roberta": "original", "jina_embeddings_v3": "native"}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Architecture of one checkpoint. Two equal configurations share one traced graph."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocab: int
    token_types: int
    max_positions: int
    layer_norm_eps: float
    rope_theta: float
    pad_id: int
    # Facts beside the architecture; they do not change the graph.
    tasks: tuple[str, ...] = field(default=JINA_TASKS, compare=False)
    prefixes: Mapping[str, str] = field(default_factory=dict, compare=False)
    dimensions: tuple[int, ...] = field(default=(), compare=False)
    lora_rank: int = field(default=4, compare=False)
    lora_alpha: float = field(default=1.0, compare=False)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens; XLM-RoBERTa keeps two position slots for padding."""
        return self.max_positions - 2

    def architecture(self) -> dict[str, int | float]:
        """The fields that decide the graph and the shapes, as the manifest holds them."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.compare}

    def prefix(self, task: str) -> str:
        """The instruction put before a text of this task; empty where there is none."""
        return "" if task == BASE_TASK else self.prefixes.get(task, "")


def read_config(folder: Path) -> tuple[str, EncoderConfig]:
    """The format's name (``original`` or ``native``) and the configuration in ``folder``."""
    path = folder / "config.json"
    raw = read_json(path)
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise InputError(
            f"{path}: model_type is {model_type!r}, expected 'xlm-roberta' with task adapters or "
            "'jina_embeddings_v3'; point MODEL at a jina-embeddings-v3 checkpoint"
        )
    kind = MODEL_TYPES[model_type]
    position = raw.get("position_embedding_type", "rotary" if kind == "native" else None)
    if position != "rotary":
        raise InputError(
            f"{path}: position_embedding_type is {position!r}, expected 'rotary'; "
            "this is not a jina-embeddings-v3 checkpoint"
        )
    if (act := raw.get("hidden_act", "gelu")) != "gelu":
        raise InputError(f"{path}: hidden_act is {act!r}, expected 'gelu' (the erf form)")
    return kind, _parse(path, raw, kind)


def _parse(path: Path, raw: dict[str, Any], kind: str) -> EncoderConfig:
    hidden, heads = _integer(path, raw, "hidden_size"), _integer(path, raw, "num_attention_heads")
    if hidden % heads or (hidden // heads) % 2:
        raise InputError(
            f"{path}: hidden_size {hidden} over {heads} heads, expected an even width per head"
        )
    tasks = _list(path, raw, "lora_adaptations", JINA_TASKS, str)
    prefixes = raw.get("task_instructions") or JINA_PREFIXES
    dimensions = _list(path, raw, "matryoshka_dimensions", MATRYOSHKA, int)
    if not isinstance(prefixes, dict):
        raise InputError(f"{path}: task_instructions is {prefixes!r}, expected an object")
    return EncoderConfig(
        hidden=hidden,
        heads=heads,
        layers=_integer(path, raw, "num_hidden_layers"),
        intermediate=_integer(path, raw, "intermediate_size"),
        vocab=_integer(path, raw, "vocab_size"),
        token_types=_integer(path, raw, "type_vocab_size"),
        max_positions=_integer(path, raw, "max_position_embeddings"),
        layer_norm_eps=_number(path, raw, "layer_norm_eps"),
        rope_theta=_rope_theta(path, raw, kind),
        pad_id=_integer(path, raw, "pad_token_id"),
        tasks=tasks if kind == "original" else JINA_TASKS,
        prefixes={str(k): str(v) for k, v in prefixes.items()},
        dimensions=tuple(sorted({d for d in dimensions if 0 < d < hidden} | {hidden})),
        lora_rank=_integer(path, raw, "lora_rank") if kind == "original" else 4,
        lora_alpha=_number(path, raw, "lora_alpha") if kind == "original" else 1.0,
    )


def _rope_theta(path: Path, raw: dict[str, Any], kind: str) -> float:
    """RoPE's base. Never guessed: the class default (10000) is not the model's (20000)."""
    if kind == "original":
        return _number(path, raw, "rotary_emb_base")
    rope = raw.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise InputError(f"{path}: rope_parameters is {rope!r}, expected an object")
    if rope.get("rope_type", "default") != "default":
        raise InputError(f"{path}: rope_type is {rope['rope_type']!r}, expected 'default'")
    return _number(
        path, {"rope_parameters.rope_theta": rope.get("rope_theta")}, "rope_parameters.rope_theta"
    )


def _list(
    path: Path, raw: dict[str, Any], key: str, default: tuple[T, ...], kind: type[T]
) -> tuple[T, ...]:
    """A list of one type, ``default`` where the key is absent or empty."""
    value = raw.get(key) or default
    if not isinstance(value, list | tuple) or not all(isinstance(v, kind) for v in value):
        raise InputError(f"{path}: {key} is {value!r}, expected a list of {kind.__name__}")
    return tuple(value)


def _number(path: Path, raw: dict[str, Any], key: str) -> float:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise InputError(
            f"{path}: {key} is {value!r}, expected a positive number; "
            "restore the key from the model's published config.json"
        )
    return float(value)


def _integer(path: Path, raw: dict[str, Any], key: str) -> int:
    if key == "pad_token_id" and raw.get(key) == 0:
        return 0
    value = _number(path, raw, key)
    if value != int(value) or value > 1e7:
        raise InputError(f"{path}: {key} is {value!r}, expected a whole number up to 10,000,000")
    return int(value)
