"""Running bundles; what programs use of it is exported by :mod:`adaptrt`.

Nothing here imports torch except :mod:`runtimes.executors.torch_reference`.
"""

import os
from typing import TYPE_CHECKING, Any

from runtimes.embedder import Embedder
from runtimes.errors import AdaptrtError, GateError, InputError, MissingError
from runtimes.text.tokens import TruncationWarning
from runtimes.text.vocabulary import VocabularyWarning

# The official ONNX Runtime packages report usage over the network unless this is set before they
# are loaded; ORT_DISABLE_TELEMETRY=0 in the environment leaves it to them.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from runtimes.serving.client import TritonEmbedder

__all__ = [
    "AdaptrtError",
    "Embedder",
    "GateError",
    "InputError",
    "MissingError",
    "TritonEmbedder",
    "TruncationWarning",
    "VocabularyWarning",
]


def __getattr__(name: str) -> Any:
    """The client is loaded when asked for: the server's copy of this package has none."""
    if name == "TritonEmbedder":
        from runtimes.serving.client import TritonEmbedder

        return TritonEmbedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
