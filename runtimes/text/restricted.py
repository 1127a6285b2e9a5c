"""A tokenizer that makes some of its tokens only, by its own model over its own file.

Of Unigram the best path over the pieces that are left; of BPE the merges whose product is left,
in their order. A token that is left out keeps its place, and so all ids stay, but its text becomes
one that no text has: it begins with NUL, which :func:`runtimes.text.tokens.check_text` refuses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from runtimes.errors import InputError, shown

Mask = NDArray[np.bool_]


def restricted_tokenizer(path: Path, mask: Mask) -> Tokenizer:
    """The tokenizer of ``path`` that gives no id but those in ``mask`` ``[vocab]``.

    Raises :class:`InputError` for a model that is neither Unigram nor BPE.
    """
    raw = json.loads(path.read_text(encoding="utf-8"))
    model = raw["model"]
    kind = model.get("type")
    if kind not in _RESTRICT:
        raise InputError(
            f"{path}: its model is {shown(kind)}, expected {' or '.join(_RESTRICT)}, of which some "
            "tokens can be left out; load with unknown='error' or 'fallback'"
        )
    _RESTRICT[kind](model, mask)
    return Tokenizer.from_str(json.dumps(raw))


def _unigram(model: dict[str, Any], mask: Mask) -> None:
    """A piece's score stays: the least of all is what an unknown character costs."""
    model["vocab"] = [
        [piece if _holds(mask, index) else _never(index), score]
        for index, (piece, score) in enumerate(model["vocab"])
    ]


def _bpe(model: dict[str, Any], mask: Mask) -> None:
    vocab: Mapping[str, int] = model["vocab"]
    kept = {token for token, index in vocab.items() if _holds(mask, index)}
    model["vocab"] = {
        token if token in kept else _never(index): index for token, index in vocab.items()
    }
    model["merges"] = [
        merge for merge in model["merges"] if all(part in kept for part in parts_of(merge))
    ]


def parts_of(merge: str | list[str]) -> tuple[str, str, str]:
    """A merge's two parts and their product; files have it as one text or as two."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second, first + second


def _holds(mask: Mask, index: int) -> bool:
    return index < len(mask) and bool(mask[index])


def _never(index: int) -> str:
    return f"\0{index}"


_RESTRICT: dict[str, Callable[[dict[str, Any], Mask], None]] = {"Unigram": _unigram, "BPE": _bpe}
