"""Texts in tokens that a bundle holds, or that the full bundle behind it does."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from runtimes.arrays import Ids
from runtimes.choices import FileKind, Unknown
from runtimes.errors import InputError, shown
from runtimes.manifest import Manifest, read_manifest
from runtimes.text.chunks import Document
from runtimes.text.tokens import TextTokenizer
from runtimes.text.vocabulary import KeptTokens, VocabularyWarning, settle


def held_rows(
    tokenizer: TextTokenizer,
    rows: list[Ids],
    texts: Sequence[str],
    prefixes: Sequence[str],
    *,
    strict: bool,
) -> list[Ids]:
    """The ids of ``texts`` as they are embedded; ``rows`` are those of the whole tokenizer.

    Raises :class:`InputError`, or warns, as the bundle's policy says.
    """
    if tokenizer.kept is None or not tokenizer.kept.uncovered(rows):
        return rows
    prefixed = [before + text for before, text in zip(prefixes, texts, strict=True)]
    settled = settle(tokenizer, rows, prefixed)
    if settled.warning is not None:
        warnings.warn(settled.warning, VocabularyWarning, stacklevel=4)
    for index in settled.cut:
        settled.rows[index] = tokenizer.cut(settled.rows[index], index, strict=strict)
    return settled.rows


def held_document(tokenizer: TextTokenizer, text: str, prefix: str) -> Document:
    """The same of one document."""
    document = Document(tokenizer, text, prefix)
    settled = settle(tokenizer, [document.ids], [prefix + text], "document")
    if settled.warning is None:
        return document
    warnings.warn(settled.warning, VocabularyWarning, stacklevel=4)
    return Document(tokenizer.restricted, text, prefix)


def require_whole(fallback: Path | None, manifest: Manifest, kept: KeptTokens | None) -> None:
    """Raise :class:`InputError` unless ``fallback`` can embed what a bundle's texts have besides.

    It is there where the bundle's policy asks for one and only there, and it is of the same model.
    """
    wanted = kept is not None and kept.unknown is Unknown.FALLBACK
    if fallback is None:
        if wanted:
            raise InputError(
                "fallback: none given, but unknown is 'fallback'; name a bundle of the model that "
                "holds every token, or load with unknown='error'"
            )
        return
    if not wanted:
        policy = "the bundle holds every token" if kept is None else f"unknown is {kept.unknown!r}"
        raise InputError(f"fallback: got {shown(str(fallback))}, but {policy}; leave it out")
    other = read_manifest(fallback)
    more = set(manifest.prefixes) - set(other.prefixes)
    tokenizers = [m.artifact(FileKind.TOKENIZER).sha256 for m in (manifest, other)]
    for what, fits in (
        ("holds not every token either", other.vocabulary is None),
        ("is of another model", other.model.sha256 == manifest.model.sha256),
        ("has another tokenizer", tokenizers[0] == tokenizers[1]),
        (f"has no task {', '.join(sorted(more))}", not more),
        ("has another head", other.head is manifest.head),
        ("has the interface official", other.interface is manifest.interface),
        ("has other dimensions", other.dimensions == manifest.dimensions),
        (
            f"takes {other.max_tokens} tokens, not {manifest.max_tokens}",
            other.max_tokens >= manifest.max_tokens,
        ),
    ):
        if not fits:
            raise InputError(
                f"fallback: {shown(str(fallback))} {what}; build one of the same model, task, head "
                "and lengths without VOCABULARY"
            )
