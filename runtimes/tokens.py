"""Text to token ids: prefix, truncation and padding. The only place that does it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from runtimes.errors import InputError
from runtimes.files import MAX_JSON_BYTES

Ids = NDArray[np.int64]
Offsets = NDArray[np.int64]


class TruncationWarning(UserWarning):
    """A text was longer than the bundle takes; its vector is that of its beginning."""


@dataclass(frozen=True)
class Tokens:
    """A padded batch, both int64 ``[batch, sequence]``, padding on the right."""

    input_ids: Ids
    attention_mask: Ids

    def inputs(self) -> dict[str, Ids]:
        """The encoder's named inputs."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}


class TextTokenizer:
    """The checkpoint's tokenizer with its stored truncation and padding switched off.

    A published tokenizer.json can carry both (the sample's truncates at 64 tokens); left on, long
    texts would lose their ends in silence.
    """

    def __init__(self, path: Path, *, max_tokens: int, pad_id: int) -> None:
        if not path.is_file():
            raise InputError(f"{path}: no such file; the model's tokenizer.json is needed")
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise InputError(f"{path}: {size} bytes, expected at most {MAX_JSON_BYTES}")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise InputError(f"{path}: not a tokenizer file ({error})") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.max_tokens, self.pad_id = max_tokens, pad_id

    def encode(
        self, texts: Sequence[str], prefix: str | Sequence[str] = "", *, strict: bool = False
    ) -> list[Ids]:
        """One row of ids per text, special tokens included, no padding.

        ``prefix`` is put before each text: one for all, or one per text.
        A text over ``max_tokens`` keeps its beginning and its end-of-text token and gives a
        :class:`TruncationWarning`; with ``strict`` it raises. What :func:`check_text` refuses
        raises too.
        """
        for index, text in enumerate(texts):
            check_text(text, f"text {index}")
        prefixes = [prefix] * len(texts) if isinstance(prefix, str) else prefix
        whole = [before + text for before, text in zip(prefixes, texts, strict=True)]
        rows = []
        for index, ids in enumerate(self.tokenize(whole)):
            if len(ids) > self.max_tokens:
                ids = self._truncate(ids, index, strict)
            rows.append(ids)
        return rows

    def tokenize(self, texts: Sequence[str]) -> list[Ids]:
        """One row of ids per text, special tokens included, whatever its length."""
        return [np.asarray(e.ids, np.int64) for e in self._tokenizer.encode_batch(list(texts))]

    def tokenize_with_offsets(self, text: str) -> tuple[Ids, Offsets]:
        """Ids ``[tokens]`` and the characters of each, start and end ``[tokens, 2]``.

        The offsets of special tokens are (0, 0).
        """
        encoding = self._tokenizer.encode(text)
        return np.asarray(encoding.ids, np.int64), np.asarray(encoding.offsets, np.int64)

    def _truncate(self, ids: Ids, index: int, strict: bool) -> Ids:
        message = f"text {index}: {len(ids)} tokens, the bundle takes {self.max_tokens}"
        if strict:
            raise InputError(f"{message}; split the text, or allow truncation")
        warnings.warn(f"{message}; the end is cut off", TruncationWarning, stacklevel=4)
        return shorten(ids, self.max_tokens)

    def pad(self, rows: Sequence[Ids]) -> Tokens:
        """Rows of ids as one batch, padded on the right to the longest."""
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), self.pad_id, np.int64)
        mask = np.zeros_like(ids)
        for row, (out, seen) in zip(rows, zip(ids, mask, strict=True), strict=True):
            out[: len(row)], seen[: len(row)] = row, 1
        return Tokens(ids, mask)


def check_text(text: object, where: str = "text 0") -> None:
    """The one rule of what can be embedded; :class:`InputError` begins with ``where``.

    A text is a str of at least one character, valid Unicode without NUL. White space alone is a
    text.
    """
    if not isinstance(text, str):
        raise InputError(f"{where}: got {type(text).__name__}, expected str")
    if not text:
        raise InputError(f"{where}: empty, expected at least one character")
    if "\0" in text:
        raise InputError(f"{where}: holds a NUL character; remove it")
    if not _is_unicode(text):
        raise InputError(f"{where}: holds a lone surrogate, expected valid Unicode")


def shorten(ids: Ids, count: int) -> Ids:
    """At most ``count`` ids: the beginning and the end-of-text token."""
    return ids if len(ids) <= count else np.concatenate([ids[: count - 1], ids[-1:]])


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
