"""Running bundles. Nothing here imports torch except :mod:`runtimes.torch_reference`."""

from runtimes.embedder import Embedder
from runtimes.errors import AdaptrtError, GateError, InputError, MissingError
from runtimes.tokens import TruncationWarning

__all__ = [
    "AdaptrtError",
    "Embedder",
    "GateError",
    "InputError",
    "MissingError",
    "TruncationWarning",
]
