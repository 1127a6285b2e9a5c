"""Finding TensorRT, in either flavour, and hearing its errors."""

from __future__ import annotations

import importlib
import re
from types import ModuleType
from typing import Any

from runtimes.choices import Target
from runtimes.errors import MissingError

_MODULES = {
    Target.TENSORRT_RTX: (
        ("tensorrt_rtx", "tensorrt_rtx_bindings"),
        "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings",
    ),
    Target.TENSORRT: (("tensorrt", "tensorrt_bindings"), "pip install 'adaptrt[gpu]'"),
}
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
