"""The encoder's shape and the model card's facts, read from either format's config.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from unicodedata import category

from export.spec import JINA_TASKS, MAX_RANK, check_task_name
from runtimes.choices import ALL_TASKS, BASE_TASK
from runtimes.errors import InputError, shown
from runtimes.files import MAX_CONFIG_BYTES, read_json

# The native format's config.json carries neither; these are the published model's values.
JINA_PREFIXES = {
    "retrieval.query": "Represent the query for retrieving evidence documents: ",
    "retrieval.passage": "Represent the document for retrieval: ",
}
MATRYOSHKA = (32, 64, 128, 256, 512, 768, 1024)
MODEL_TYPES = {"xlm-roberta": "original", "jina_embeddings_v3": "native"}
# The most of each number, at least eight times the published model's. They cost memory and time
# before a tensor is looked at, or where no tensor contradicts them.
_MOST = {
    "hidden_size": 16_384,  # 16,384 rows of an embedding table, held at once, are 1 GiB
    "num_attention_heads": 1024,
    "num_hidden_layers": 512,  # every tensor's name is made, every layer traced and lowered
    "intermediate_size": 131_072,
    "vocab_size": 4_000_000,
    "type_vocab_size": 1024,
    "max_position_embeddings": 131_074,  # no tensor has it; transformers makes tables of it
    "lora_rank": MAX_RANK,  # a switchable graph multiplies all tasks' ranks for each of them
}
_MOST_TASKS = 64  # TASK=all builds a bundle for each
_MOST_DIMENSIONS = 64
_MOST_PREFIX = 2000  # characters; the published ones have 60


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
    raw = read_json(path, MAX_CONFIG_BYTES)
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise InputError(
            f"{path}: model_type is {shown(model_type)}, expected 'xlm-roberta' with task adapters "
            "or 'jina_embeddings_v3'; point MODEL at a jina-embeddings-v3 checkpoint"
        )
    kind = MODEL_TYPES[model_type]
    position = raw.get("position_embedding_type", "rotary" if kind == "native" else None)
    if position != "rotary":
        raise InputError(
            f"{path}: position_embedding_type is {shown(position)}, expected 'rotary'; "
            "this is not a jina-embeddings-v3 checkpoint"
        )
    if (act := raw.get("hidden_act", "gelu")) != "gelu":
        raise InputError(f"{path}: hidden_act is {shown(act)}, expected 'gelu' (the erf form)")
    return kind, _parse(path, raw, kind)


def _parse(path: Path, raw: dict[str, Any], kind: str) -> EncoderConfig:
    hidden, vocab = _integer(path, raw, "hidden_size"), _integer(path, raw, "vocab_size")
    original = kind == "original"
    return EncoderConfig(
        hidden=hidden,
        heads=_heads(path, raw, hidden),
        layers=_integer(path, raw, "num_hidden_layers"),
        intermediate=_integer(path, raw, "intermediate_size"),
        vocab=vocab,
        token_types=_integer(path, raw, "type_vocab_size"),
        max_positions=_integer(path, raw, "max_position_embeddings"),
        layer_norm_eps=_number(path, raw, "layer_norm_eps"),
        rope_theta=_rope_theta(path, raw, kind),
        pad_id=_pad_id(path, raw, vocab),
        tasks=_tasks(path, raw) if original else JINA_TASKS,
        prefixes=_prefixes(path, raw),
        dimensions=_dimensions(path, raw, hidden),
        lora_rank=_integer(path, raw, "lora_rank") if original else 4,
        lora_alpha=_number(path, raw, "lora_alpha") if original else 1.0,
    )


def _heads(path: Path, raw: dict[str, Any], hidden: int) -> int:
    heads = _integer(path, raw, "num_attention_heads")
    if hidden % heads or (hidden // heads) % 2:
        raise InputError(
            f"{path}: hidden_size {hidden} over {heads} heads, expected an even width per head"
        )
    if (width := raw.get("head_dim")) not in (None, hidden // heads):
        raise InputError(f"{path}: head_dim is {shown(width)}, expected {hidden // heads} or none")
    return heads


def _pad_id(path: Path, raw: dict[str, Any], vocab: int) -> int:
    value = raw.get("pad_token_id")
    if type(value) is not int or not 0 <= value < vocab:
        raise InputError(
            f"{path}: pad_token_id is {shown(value)}, expected an id below vocab_size {vocab}"
        )
    return value


def _tasks(path: Path, raw: dict[str, Any]) -> tuple[str, ...]:
    """The adapters' names. They become parts of paths, so they are what TASK may be."""
    source = f"{path}: lora_adaptations"
    names = raw.get("lora_adaptations")
    if names is None:
        return JINA_TASKS
    if not isinstance(names, list) or not 1 <= len(names) <= _MOST_TASKS:
        raise InputError(f"{source} is {shown(names)}, expected a list of 1 to {_MOST_TASKS} names")
    counts = Counter(check_task_name(source, name) for name in names)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise InputError(f"{source}: {twice[0]} is named twice, expected every name once")
    if taken := counts.keys() & {BASE_TASK, ALL_TASKS}:
        raise InputError(
            f"{source}: {min(taken)!r} is a word of TASK, expected another name for an adapter"
        )
    return tuple(names)


def _prefixes(path: Path, raw: dict[str, Any]) -> dict[str, str]:
    """The instruction of each task; it is put before every text, so it must be short and plain."""
    prefixes = raw.get("task_instructions") or JINA_PREFIXES
    if not isinstance(prefixes, dict):
        raise InputError(f"{path}: task_instructions is {shown(prefixes)}, expected an object")
    for task, prefix in prefixes.items():
        if not isinstance(prefix, str) or len(prefix) > _MOST_PREFIX or not _is_plain(prefix):
            raise InputError(
                f"{path}: task_instructions of {shown(task)} is {shown(prefix)}, expected at most "
                f"{_MOST_PREFIX} characters of text without control characters"
            )
    return dict(prefixes)


def _is_plain(text: str) -> bool:
    """Text without control characters (but line breaks and tabs) and lone surrogates."""
    return all(c in "\n\t" or category(c) not in ("Cc", "Cs") for c in text)


def _dimensions(path: Path, raw: dict[str, Any], hidden: int) -> tuple[int, ...]:
    """The lengths a vector may be cut to, ascending; the last is the full one."""
    values = raw.get("matryoshka_dimensions") or MATRYOSHKA
    if (
        not isinstance(values, list | tuple)
        or len(values) > _MOST_DIMENSIONS
        or not all(type(value) is int for value in values)
    ):
        raise InputError(
            f"{path}: matryoshka_dimensions is {shown(values)}, expected a list of at most "
            f"{_MOST_DIMENSIONS} whole numbers"
        )
    return tuple(sorted({value for value in values if 0 < value < hidden} | {hidden}))


def _rope_theta(path: Path, raw: dict[str, Any], kind: str) -> float:
    """RoPE's base. Never guessed: the class default (10000) is not the model's (20000)."""
    if kind == "original":
        return _number(path, raw, "rotary_emb_base")
    rope = raw.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise InputError(f"{path}: rope_parameters is {shown(rope)}, expected an object")
    if (kind_of_rope := rope.get("rope_type", "default")) != "default":
        raise InputError(f"{path}: rope_type is {shown(kind_of_rope)}, expected 'default'")
    return _number(
        path, {"rope_parameters.rope_theta": rope.get("rope_theta")}, "rope_parameters.rope_theta"
    )


def _number(path: Path, raw: dict[str, Any], key: str) -> float:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise InputError(
            f"{path}: {key} is {shown(value)}, expected a positive number; "
            "restore the key from the model's published config.json"
        )
    return float(value)


def _integer(path: Path, raw: dict[str, Any], key: str) -> int:
    value = _number(path, raw, key)
    if value != int(value) or value > _MOST[key]:
        raise InputError(
            f"{path}: {key} is {shown(raw[key])}, expected a whole number up to {_MOST[key]:,}"
        )
    return int(value)
