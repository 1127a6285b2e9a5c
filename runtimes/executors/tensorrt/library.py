"""Finding TensorRT, in either flavour, and hearing its errors."""

from __future__ import annotations

import importlib
import re
from types import ModuleType
from typing import Any

from packaging.version import Version

from runtimes.choices import Target
from runtimes.errors import MissingError

_MODULES = {
    Target.TENSORRT_RTX: (
        ("tensorrt_rtx", "tensorrt_rtx_bindings"),
        "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings",
    ),
    Target.TENSORRT: (("tensorrt", "tensorrt_bindings"), "pip install 'adaptrt[gpu]'"),
}
# The first release whose ONNX parser reads what a target's graph consists of: Attention came with
# 10.14, RotaryEmbedding with 10.15. TARGET=tensorrt10's graph has neither.
OLDEST = {Target.TENSORRT: Version("10.15")}
_ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+) bytes")
_KERNELS = "Layers:\nName: "  # begins one of some 6000 messages


def load_tensorrt(flavour: Target) -> ModuleType:
    """The flavour's module; :class:`MissingError` with the install command where it is absent."""
    names, install = _MODULES[flavour]
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            reason = str(error)
    raise MissingError(f"TARGET={flavour}: its library does not load ({reason}); {install}")


def check_release(trt: Any, target: Target) -> None:
    """Raise :class:`MissingError` where the library is too old for graphs of a target."""
    oldest = OLDEST.get(target)
    if oldest is not None and Version(trt.__version__) < oldest:
        raise MissingError(
            f"TARGET={target}: got TensorRT {trt.__version__}, expected {oldest} or newer, whose "
            "parser reads Attention and RotaryEmbedding; pip install --upgrade "
            f"'tensorrt>={oldest},<12', or build with TARGET={Target.TENSORRT10}, whose graph has "
            "basic operators"
        )


def is_rtx(trt: Any) -> bool:
    """Whether a module is TensorRT-RTX, which has calls that full TensorRT lacks."""
    return str(trt.__name__).startswith("tensorrt_rtx")


def make_logger(trt: Any) -> Any:
    """A logger that keeps errors (its list ``errors``) and is silent otherwise.

    The builder tells two things in its log alone, since only a GPU could load the engine to ask.
    ``activation_memory`` keeps what each profile needs, bytes, in their order; ``compiled`` the
    message that lists the compiled kernels, which comes where profiling is DETAILED.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.activation_memory: list[int] = []
            self.compiled: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)
            elif match := _ACTIVATIONS.search(message):
                self.activation_memory.append(int(match[1]))
            elif message.startswith(_KERNELS):
                self.compiled.append(message)

        def last_words(self) -> str:
            """The last errors, for a message."""
            return "; ".join(self.errors[-3:]) or "no reason given"

    return Logger()
