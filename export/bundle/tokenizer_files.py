"""A bundle's tokenizer files, so that every client cuts texts where the model ends.

Checkpoints carry what their last use left behind: a ``tokenizer.json`` that truncates at a few
dozen tokens, a ``tokenizer_config.json`` with a ``max_length`` that some clients take for the
model's limit. Texts are then cut in silence.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tokenizers import Tokenizer

from export.bundle.staging import write_json
from runtimes.bundle_files import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, TOKENS_FILE
from runtimes.errors import InputError, shown
from runtimes.files import read_json
from runtimes.typed_json import JsonObject

# Known to transformers 4 and 5, and tokenizer.json is used as it stands. By XLM-RoBERTa's own name
# transformers 5 would make normalizer and pre-tokenizer anew, and give other ids.
_CLASS = "PreTrainedTokenizerFast"
# XLM-RoBERTa's special tokens, by the names that configurations have for them.
_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}


def write_tokenizer(folder: Path, source: Path, max_tokens: int) -> None:
    """The checkpoint's tokenizer without stored truncation and padding, and its configuration."""
    _copy_tokenizer(source / TOKENIZER_FILE, folder / TOKENIZER_FILE)
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    given = _config(source / TOKENIZER_CONFIG_FILE) | _config(source / TOKENS_FILE)
    tokens = {
        name: token
        for name, usual in _TOKENS.items()
        if tokenizer.token_to_id(token := _text(name, given.get(name), usual)) is not None
    }
    write_json(folder / TOKENS_FILE, tokens)
    config = {
        "tokenizer_class": _CLASS,
        "model_max_length": max_tokens,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / TOKENIZER_CONFIG_FILE, config | tokens)


def _text(name: str, token: object, usual: str) -> str:
    """A token as text; a configuration also writes it as an object, or leaves it out."""
    if token is None:
        return usual
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        raise InputError(
            f"{TOKENIZER_CONFIG_FILE}: {name}: got {shown(token)}, expected text, or an object "
            "with its content"
        )
    return text


def _copy_tokenizer(source: Path, target: Path) -> None:
    tokenizer = read_json(source)
    if tokenizer.get("truncation") is None and tokenizer.get("padding") is None:
        shutil.copyfile(source, target)
        return
    tokenizer |= {"truncation": None, "padding": None}
    target.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


def _config(path: Path) -> JsonObject:
    return read_json(path) if path.is_file() else {}
