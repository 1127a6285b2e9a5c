"""``config.json`` into the encoder's configuration, as its family's row says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unicodedata import category

from export.checkpoint.encoder_config import EncoderConfig
from export.checkpoint.families import FAMILIES
from export.checkpoint.family import Family, Fixed
from export.spec import MAX_RANK, check_task_name
from runtimes.choices import ALL_TASKS, BASE_TASK
from runtimes.errors import InputError, shown
from runtimes.files import MAX_CONFIG_BYTES, read_json

# The most of each number, at least eight times the published model's. They cost memory and time
# before a tensor is looked at, or where no tensor contradicts them.
_MOST = {
    "hidden": 16_384,  # 16,384 rows of an embedding table, held at once, are 1 GiB
    "heads": 1024,
    "layers": 512,  # every tensor's name is made, every layer traced and lowered
    "intermediate": 131_072,
    "vocab": 4_000_000,
    "token_types": 1024,
    "max_positions": 131_074,  # no tensor has it; transformers makes tables of it
    "lora_rank": MAX_RANK,  # a switchable graph multiplies all tasks' ranks for each of them
}
_MOST_TASKS = 64  # TASK=all builds a bundle for each
_MOST_DIMENSIONS = 64
_MOST_PREFIX = 2000  # characters; the published ones have 60
Raw = Mapping[str, Any]  # config.json, unchecked


def read_config(folder: Path) -> tuple[Family, EncoderConfig]:
    """The family's row and the configuration of the checkpoint in ``folder``."""
    path = folder / "config.json"
    raw = read_json(path, MAX_CONFIG_BYTES)
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = " or ".join(repr(name) for name in FAMILIES)
        names = " or ".join(dict.fromkeys(family.name for family in FAMILIES.values()))
        raise InputError(
            f"{path}: model_type is {shown(model_type)}, expected {known}; "
            f"point MODEL at a checkpoint of {names}"
        )
    family = FAMILIES[model_type]
    for fixed in family.fixed:
        _check_fixed(path, raw, fixed)
    return family, _parse(path, raw, family)


def _check_fixed(path: Path, raw: Raw, fixed: Fixed) -> None:
    value = _lookup(path, raw, fixed.key, fixed.absent)
    if value != fixed.value:
        raise InputError(
            f"{path}: {fixed.key} is {shown(value)}, expected {fixed.value!r}{fixed.hint}"
        )


def _parse(path: Path, raw: Raw, family: Family) -> EncoderConfig:
    keys = family.config

    def integer(field_name: str) -> int:
        return _integer(path, raw, getattr(keys, field_name), _MOST[field_name])

    hidden, vocab = integer("hidden"), integer("vocab")
    return EncoderConfig(
        hidden=hidden,
        heads=_heads(path, raw, family, hidden, integer("heads")),
        layers=integer("layers"),
        intermediate=integer("intermediate"),
        vocab=vocab,
        token_types=integer("token_types") if keys.token_types else 0,
        max_positions=integer("max_positions"),
        layer_norm_eps=_number(path, raw, keys.layer_norm_eps),
        rope_theta=_number(path, raw, keys.rope_theta),
        pad_id=_pad_id(path, raw, family, vocab),
        tasks=_tasks(path, raw, family),
        prefixes=_prefixes(path, raw, family),
        dimensions=_dimensions(path, raw, family, hidden),
        lora_rank=integer("lora_rank") if keys.lora_rank else 1,
        lora_alpha=_number(path, raw, keys.lora_alpha) if keys.lora_alpha else 1.0,
        pooler=family.pooler,
    )


def _lookup(path: Path, raw: Raw, key: str, absent: Any = None) -> Any:
    """The value at a key; a dot leads into an object, which may be absent or null."""
    outer, dot, inner = key.partition(".")
    if not dot:
        return raw.get(key, absent)
    nested = raw.get(outer) or {}
    if not isinstance(nested, dict):
        raise InputError(f"{path}: {outer} is {shown(nested)}, expected an object")
    return nested.get(inner, absent)


def _heads(path: Path, raw: Raw, family: Family, hidden: int, heads: int) -> int:
    if hidden % heads or (hidden // heads) % 2:
        raise InputError(
            f"{path}: {family.config.hidden} {hidden} over {heads} heads, expected an even width "
            "per head"
        )
    key = family.config.head_dim
    if (width := _lookup(path, raw, key)) not in (None, hidden // heads):
        raise InputError(f"{path}: {key} is {shown(width)}, expected {hidden // heads} or none")
    return heads


def _pad_id(path: Path, raw: Raw, family: Family, vocab: int) -> int:
    key = family.config.pad_id
    value = _lookup(path, raw, key)
    if type(value) is not int or not 0 <= value < vocab:
        raise InputError(
            f"{path}: {key} is {shown(value)}, expected an id below {family.config.vocab} {vocab}"
        )
    return value


def _tasks(path: Path, raw: Raw, family: Family) -> tuple[str, ...]:
    """The adapters' names. They become parts of paths, so they are what TASK may be."""
    key = family.config.tasks
    names = _lookup(path, raw, key) if key else None
    if names is None:
        return family.tasks
    source = f"{path}: {key}"
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


def _prefixes(path: Path, raw: Raw, family: Family) -> dict[str, str]:
    """The instruction of each task; it is put before every text, so it must be short and plain."""
    key = family.config.prefixes
    prefixes = (_lookup(path, raw, key) if key else None) or family.prefixes
    if not isinstance(prefixes, Mapping):
        raise InputError(f"{path}: {key} is {shown(prefixes)}, expected an object")
    for task, prefix in prefixes.items():
        if not isinstance(prefix, str) or len(prefix) > _MOST_PREFIX or not _is_plain(prefix):
            raise InputError(
                f"{path}: {key} of {shown(task)} is {shown(prefix)}, expected at most "
                f"{_MOST_PREFIX} characters of text without control characters"
            )
    return dict(prefixes)


def _is_plain(text: str) -> bool:
    """Text without control characters (but line breaks and tabs) and lone surrogates."""
    return all(c in "\n\t" or category(c) not in ("Cc", "Cs") for c in text)


def _dimensions(path: Path, raw: Raw, family: Family, hidden: int) -> tuple[int, ...]:
    """The lengths a vector may be cut to, ascending; the last is the full one."""
    key = family.config.dimensions
    values = (_lookup(path, raw, key) if key else None) or family.dimensions
    if (
        not isinstance(values, list | tuple)
        or len(values) > _MOST_DIMENSIONS
        or not all(type(value) is int for value in values)
    ):
        raise InputError(
            f"{path}: {key} is {shown(values)}, expected a list of at most "
            f"{_MOST_DIMENSIONS} whole numbers"
        )
    return tuple(sorted({value for value in values if 0 < value < hidden} | {hidden}))


def _number(path: Path, raw: Raw, key: str) -> float:
    value = _lookup(path, raw, key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise InputError(
            f"{path}: {key} is {shown(value)}, expected a positive number; "
            "restore the key from the model's published config.json"
        )
    return float(value)


def _integer(path: Path, raw: Raw, key: str, most: int) -> int:
    value = _number(path, raw, key)
    if value != int(value) or value > most:
        raise InputError(
            f"{path}: {key} is {shown(_lookup(path, raw, key))}, expected a whole number up to "
            f"{most:,}"
        )
    return int(value)
