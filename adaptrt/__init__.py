"""Embed texts with verified engine bundles, and build them.

The names below are the public interface; ``docs/stability.md`` says what a version promises.

>>> from adaptrt import Embedder, build
>>> (bundle,) = build(task="classification", target="onnxruntime")
>>> with Embedder.load(bundle.path) as embedder:
...     embedder.encode(["Guten Tag"]).shape
(1, 256)

Importing this package loads nothing else: each name is loaded when it is asked for, so that a
program that only embeds needs neither PyTorch nor ONNX, in its environment or in its memory.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adaptrt.api import Bundle, build, verify
    from export.gate.verify import Verification
    from runtimes.embedder import Embedder
    from runtimes.errors import (
        AdaptrtError,
        GateError,
        IndexMismatchError,
        InputError,
        MissingError,
    )
    from runtimes.serving.client import TritonEmbedder
    from runtimes.text.tokens import TruncationWarning
    from runtimes.text.vocabulary import VocabularyWarning

    __version__: str

__all__ = [
    "AdaptrtError",
    "Bundle",
    "Embedder",
    "GateError",
    "IndexMismatchError",
    "InputError",
    "MissingError",
    "TritonEmbedder",
    "TruncationWarning",
    "Verification",
    "VocabularyWarning",
    "__version__",
    "build",
    "verify",
]
_HOMES = {
    "AdaptrtError": "runtimes.errors",
    "Bundle": "adaptrt.api",
    "Embedder": "runtimes.embedder",
    "GateError": "runtimes.errors",
    "IndexMismatchError": "runtimes.errors",
    "InputError": "runtimes.errors",
    "MissingError": "runtimes.errors",
    "TritonEmbedder": "runtimes.serving.client",
    "TruncationWarning": "runtimes.text.tokens",
    "Verification": "export.gate.verify",
    "VocabularyWarning": "runtimes.text.vocabulary",
    "build": "adaptrt.api",
    "verify": "adaptrt.api",
}


if not TYPE_CHECKING:  # a type checker would take any name for one that is there

    def __getattr__(name: str) -> object:
        """A public name, loaded from where it is defined."""
        if name == "__version__":
            from importlib.metadata import version

            value: object = version("adaptrt")
        elif name in _HOMES:
            value = getattr(import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
