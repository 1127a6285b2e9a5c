"""The tokenizer that a bundle holds."""

from __future__ import annotations

from pathlib import Path

from runtimes.choices import FileKind
from runtimes.manifest import Manifest
from runtimes.text.tokens import MAX_BYTES, TextTokenizer


def load_tokenizer(folder: Path, manifest: Manifest, max_bytes: int = MAX_BYTES) -> TextTokenizer:
    """The bundle's tokenizer."""
    path = folder / manifest.artifact(FileKind.TOKENIZER).path
    return TextTokenizer(
        path,
        max_tokens=manifest.max_tokens,
        pad_id=manifest.pad_id,
        max_bytes=max_bytes,
        vocab=manifest.architecture.vocab,
    )
