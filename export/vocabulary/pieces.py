"""What a tokenizer's tokens are: which ones any vocabulary keeps, and what they are made of."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from calibration.profile import scripts
from runtimes.errors import InputError
from runtimes.files import read_json
from runtimes.text.restricted import parts_of
from runtimes.text.vocabulary import Mask

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # of a tokenizer that falls back to bytes
_COMMON = "NPS"  # Unicode's categories of digits, punctuation and signs


@dataclass(frozen=True)
class Pieces:
    """A tokenizer's tokens by id, for a model of ``vocab`` rows.

    ``singles`` are the tokens of one character, without the mark of a word's beginning; ``always``
    are special tokens, the symbols of single bytes, and digits, punctuation and signs. ``merges``
    are BPE's, ids ``[merges, 3]``: two parts and what they become, in their order.
    """

    always: Mask
    singles: dict[int, str]
    merges: list[tuple[int, int, int]]
    unknown_id: int

    @classmethod
    def of(cls, path: Path, vocab: int, pad_id: int) -> Pieces:
        """The tokens of the ``tokenizer.json`` at ``path``.

        Raises :class:`InputError` where there are more than the model has rows for.
        """
        raw, tokenizer = read_json(path), Tokenizer.from_file(str(path))
        ids: dict[str, int] = tokenizer.get_vocab()
        if (greatest := max(ids.values(), default=0)) >= vocab:
            raise InputError(
                f"VOCABULARY: {path} has the token id {greatest}, expected ids below {vocab}, the "
                "model's vocabulary; use the tokenizer.json of this model"
            )
        singles = _singles(tokenizer, ids)
        always = np.zeros(vocab, bool)
        always[[i for i, text in singles.items() if unicodedata.category(text)[0] in _COMMON]] = (
            True
        )
        always[[token["id"] for token in raw.get("added_tokens") or ()]] = True
        always[[i for name, i in ids.items() if _BYTE.fullmatch(name)]] = True
        if "ByteLevel" in str(raw.get("pre_tokenizer")):
            always[[ids[symbol] for symbol in ByteLevel.alphabet() if symbol in ids]] = True
        unknown = _unknown_id(raw["model"], ids, pad_id)
        always[[unknown, pad_id]] = True
        return cls(always, singles, _merges(raw["model"], ids), unknown)

    def margin(self, written_in: Collection[str]) -> Mask:
        """Those that texts in these scripts need whatever their words: every letter of them too."""
        mask = self.always.copy()
        wanted = set(written_in)
        mask[[i for i, text in self.singles.items() if wanted & scripts(text).keys()]] = True
        return mask

    def closed(self, mask: Mask) -> Mask:
        """``mask`` and all that its tokens are merged from, so that each can still be made."""
        closed = mask.copy()
        for first, second, product in reversed(self.merges):  # parts are made before products
            if closed[product]:
                closed[first] = closed[second] = True
        return closed


def _singles(tokenizer: Tokenizer, ids: dict[str, int]) -> dict[int, str]:
    decoder = tokenizer.decoder
    texts = {i: (decoder.decode([name]) if decoder else name).strip() for name, i in ids.items()}
    return {i: text for i, text in texts.items() if len(text) == 1 and text != "\ufffd"}


def _merges(model: dict[str, Any], ids: dict[str, int]) -> list[tuple[int, int, int]]:
    if model.get("type") != "BPE":
        return []
    rows = [tuple(ids.get(part, -1) for part in parts_of(merge)) for merge in model["merges"]]
    return [(a, b, c) for a, b, c in rows if min(a, b, c) >= 0]


def _unknown_id(model: dict[str, Any], ids: dict[str, int], pad_id: int) -> int:
    """What stands for text that there is no token for; a model without one never gives it."""
    stated = model.get("unk_id")
    if isinstance(stated, int):
        return stated
    return ids.get(str(model.get("unk_token") or "<unk>"), pad_id)
