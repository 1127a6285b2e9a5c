"""Running bundles. Nothing here imports torch except :mod:`runtimes.torch_reference`."""

import os

from runtimes.embedder import Embedder
from runtimes.errors import AdaptrtError, GateError, InputError, MissingError
from runtimes.tokens import TruncationWarning

# The official ONNX Runtime packages report usage over the network unless this is set before they
# are loaded; ORT_DISABLE_TELEMETRY=0 in the environment leaves it to them.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "AdaptrtError",
    "Embedder",
    "GateError",
    "InputError",
    "MissingError",
    "TruncationWarning",
]
