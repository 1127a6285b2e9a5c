"""The tokenizer that a bundle holds."""

from __future__ import annotations

from pathlib import Path

from runtimes.choices import FileKind, Unknown
from runtimes.manifest import Manifest, require_as_built
from runtimes.text.tokens import MAX_BYTES, TextTokenizer
from runtimes.text.vocabulary import read_kept, require_own_tokenizer


def load_tokenizer(
    folder: Path,
    manifest: Manifest,
    max_bytes: int = MAX_BYTES,
    unknown: Unknown | None = None,
) -> TextTokenizer:
    """The bundle's tokenizer, which knows the tokens that the bundle holds.

    ``unknown`` is what becomes of other texts, instead of what the bundle says. Raises
    :class:`~runtimes.errors.GateError` for a file that is not the one that was checked.
    """
    kept = read_kept(folder, manifest, unknown)
    require_own_tokenizer(folder, manifest)
    path = require_as_built(folder, manifest.artifact(FileKind.TOKENIZER))
    return TextTokenizer(
        path,
        max_tokens=manifest.max_tokens,
        pad_id=manifest.pad_id,
        max_bytes=max_bytes,
        vocab=manifest.architecture.vocab,
        kept=kept,
    )
