"""Text to token ids: prefix, truncation and padding. The only place that does it."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from runtimes.arrays import Ids
from runtimes.errors import InputError, shown
from runtimes.files import MAX_JSON_BYTES
from runtimes.text.memory import trim
from runtimes.text.panics import panics_unprinted
from runtimes.text.restricted import restricted_tokenizer
from runtimes.text.vocabulary import KeptTokens

Offsets = NDArray[np.int64]
# Of one text, in UTF-8. 8192 tokens are 30 to 130 KB, so this is a document of many windows. The
# tokenizer takes up to 0.35 s and 200 MB for it, with offsets 1.1 s and 360 MB, in proportion.
MAX_BYTES = 1 << 20
_GROUP = 1 << 18  # characters tokenised at once; more take no less time and more memory


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

    def __init__(
        self,
        path: Path,
        *,
        max_tokens: int,
        pad_id: int,
        max_bytes: int = MAX_BYTES,
        vocab: int = sys.maxsize,
        kept: KeptTokens | None = None,
    ) -> None:
        """``kept`` says which of ``vocab`` token ids the bundle has a row for; None: all."""
        if not path.is_file():
            raise InputError(f"{path}: no such file; the model's tokenizer.json is needed")
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise InputError(f"{path}: {size} bytes, expected at most {MAX_JSON_BYTES}")
        self.path, self.vocab, self.kept = path, vocab, kept
        self.max_tokens, self.pad_id, self.max_bytes = max_tokens, pad_id, max_bytes
        with panics_unprinted():
            with _as_input_error(f"{path}: not a tokenizer file"):
                self._tokenizer = Tokenizer.from_file(str(path))
                self._tokenizer.no_truncation()
                self._tokenizer.no_padding()
            self.tokenize(["a\U0010fffd"])  # what fails on any text, or on unknown characters

    def encode(
        self, texts: Sequence[str], prefix: str | Sequence[str] = "", *, strict: bool = False
    ) -> list[Ids]:
        """One row of ids per text, special tokens included, no padding.

        ``prefix`` is put before each text: one for all, or one per text.
        A text over ``max_tokens`` keeps its beginning and its end-of-text token and gives a
        :class:`TruncationWarning`; with ``strict`` it raises. What :func:`check_text` refuses, an
        empty text or one of more than ``max_bytes``, raises too.
        """
        for index, text in enumerate(texts):
            check_text(text, f"text {index}", self.max_bytes)
        prefixes = [prefix] * len(texts) if isinstance(prefix, str) else prefix
        prefixed = [before + text for before, text in zip(prefixes, texts, strict=True)]
        rows = []
        for index, ids in enumerate(self.tokenize(prefixed)):
            rows.append(self.cut(ids, index, strict=strict))
        return rows

    def tokenize(self, texts: Sequence[str]) -> list[Ids]:
        """One row of ids per text, special tokens included, whatever its length."""
        rows: list[Ids] = []
        for group in groups(map(len, texts), _GROUP):
            rows += self._rows(texts[group.start : group.stop])
        return rows

    def tokenize_with_offsets(self, text: str) -> tuple[Ids, Offsets]:
        """Ids ``[tokens]`` and the characters of each, start and end ``[tokens, 2]``.

        The offsets of special tokens are (0, 0).
        """
        with self._tokenizing():
            encoding = self._tokenizer.encode(text)
        ids, offsets = self._ids(encoding), np.asarray(encoding.offsets, np.int64)
        del encoding
        _trim_after(len(text))
        return ids, offsets

    def vocabulary(self) -> dict[str, int]:
        """Every token and its id; it identifies a tokenizer however its file is written."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        return vocabulary

    def token(self, index: int) -> str:
        """A token's text, without the mark of a word's beginning; its name where it has none."""
        name = self._tokenizer.id_to_token(index)
        decoder = self._tokenizer.decoder
        text = str(decoder.decode([name]) if name and decoder else name).strip()
        return text if text and "\ufffd" not in text else str(name)

    @cached_property
    def unknown_id(self) -> int:
        """The id of what the tokenizer has no token for; -1 where it has tokens for all."""
        model = self._tokenizer.model
        name = getattr(model, "unk_token", None)
        index = self._tokenizer.token_to_id(name or "<unk>")
        return -1 if index is None else int(index)

    @cached_property
    def restricted(self) -> TextTokenizer:
        """The same that makes no token but those the bundle has rows for."""
        other = copy.copy(self)
        if self.kept is None:
            return other
        with _as_input_error(f"{self.path}: cannot leave tokens out"):
            other._tokenizer = restricted_tokenizer(self.path, self.kept.mask)
            other._tokenizer.no_truncation()
            other._tokenizer.no_padding()
        return other

    def _rows(self, texts: Sequence[str]) -> list[Ids]:
        with self._tokenizing():
            encodings = self._tokenizer.encode_batch_fast(list(texts))  # without offsets
        rows = [self._ids(encoding) for encoding in encodings]
        del encodings
        _trim_after(sum(map(len, texts)))
        return rows

    def _tokenizing(self) -> AbstractContextManager[None]:
        return _as_input_error(f"{self.path}: cannot tokenize a text")

    def _ids(self, encoding: Encoding) -> Ids:
        ids = np.asarray(encoding.ids, np.int64)
        if (greatest := ids.max(initial=0)) >= self.vocab:
            raise InputError(
                f"{self.path}: gives the id {greatest}, expected ids below {self.vocab}, the "
                "model's vocabulary; use the tokenizer.json of this model"
            )
        return ids

    def cut(self, ids: Ids, index: int, *, strict: bool) -> Ids:
        """At most ``max_tokens`` of text ``index``'s ids; a longer one warns, or raises."""
        if len(ids) <= self.max_tokens:
            return ids
        message = f"text {index}: {len(ids)} tokens, the bundle takes {self.max_tokens}"
        if strict:
            raise InputError(f"{message}; split the text, or allow truncation")
        warnings.warn(f"{message}; the end is cut off", TruncationWarning, stacklevel=5)
        return shorten(ids, self.max_tokens)

    def pad(self, rows: Sequence[Ids]) -> Tokens:
        """Rows of ids as one batch, padded on the right to the longest."""
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), self.pad_id, np.int64)
        mask = np.zeros_like(ids)
        for row, (out, seen) in zip(rows, zip(ids, mask, strict=True), strict=True):
            out[: len(row)], seen[: len(row)] = row, 1
        return Tokens(ids, mask)


_LIBRARY = (Exception, ValueError, TypeError, OverflowError)


@contextmanager
def _as_input_error(what: str) -> Iterator[None]:
    """The library raises bare exceptions and, where a file makes it panic, no Exception at all.

    Every other class is the caller's: Ctrl-C, or what a signal's handler raises.
    """
    try:
        yield
    except BaseException as error:
        if type(error) not in _LIBRARY and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{what} ({shown(str(error))}); download it again") from error


def check_text(text: object, where: str = "text 0", max_bytes: int | None = None) -> None:
    """The one rule of what can be embedded; :class:`InputError` begins with ``where``.

    A text is a str of at least one character, valid Unicode without NUL, and at most ``max_bytes``
    long in UTF-8. White space alone is a text.
    """
    if not isinstance(text, str):
        raise InputError(f"{where}: got {type(text).__name__}, expected str")
    if not text:
        raise InputError(f"{where}: empty, expected at least one character")
    if "\0" in text:
        raise InputError(f"{where}: holds a NUL character; remove it")
    try:
        size = _utf8_bytes(text)
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: holds a lone surrogate, expected valid Unicode") from error
    check_size(where, size, max_bytes)


def check_size(where: str, size: int, max_bytes: int | None) -> None:
    """Refuse a text that would take the tokenizer too long."""
    if max_bytes is not None and size > max_bytes:
        raise InputError(
            f"{where}: {size} bytes, expected at most {max_bytes}; split the text, or raise "
            "max_bytes (of Embedder.load; of a server in [embed] of its settings)"
        )


def groups(sizes: Iterable[int], most: int, count: int = sys.maxsize) -> Iterator[range]:
    """Neighbours of at most ``most`` in sum and ``count`` in number; a larger one goes alone."""
    start = total = 0
    index = -1
    for index, size in enumerate(sizes):
        if index > start and (total + size > most or index - start == count):
            yield range(start, index)
            start, total = index, 0
        total += size
    if index >= 0:
        yield range(start, index + 1)


def shorten(ids: Ids, count: int) -> Ids:
    """At most ``count`` ids: the beginning and the end-of-text token."""
    return ids if len(ids) <= count else np.concatenate([ids[: count - 1], ids[-1:]])


def _utf8_bytes(text: str) -> int:
    """Counted piece by piece: no second copy of a text that may be huge."""
    if text.isascii():
        return len(text)
    return sum(len(text[at : at + _GROUP].encode()) for at in range(0, len(text), _GROUP))


def _trim_after(characters: int) -> None:
    if characters > _GROUP:
        trim()
