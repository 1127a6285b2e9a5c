"""Whether this CPU multiplies INT8 without overflow.

x86 CPUs before VNNI add two products of an unsigned and a signed byte in 16 bits and saturate.
ONNX Runtime then takes slower, exact kernels where ``OrtRuntime`` asks for them; the vectors stay
right, the speed of INT8 is gone.
"""

from __future__ import annotations

import platform
import warnings
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_FLAGS = {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"}


class SlowInt8Warning(UserWarning):
    """INT8 runs on this CPU, exactly but slowly."""


def has_vnni(cpuinfo: Path = CPUINFO, machine: str | None = None) -> bool | None:
    """True on x86 with VNNI (or AMX) and on other machines; None where nothing says."""
    if (machine or platform.machine()).lower() not in ("x86_64", "amd64"):
        return True  # ARM's dot products accumulate in 32 bits
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    flags = {flag for line in lines if line.startswith("flags") for flag in line.split()[1:]}
    return bool(flags & _FLAGS)


def warn_without_vnni(cpuinfo: Path = CPUINFO, machine: str | None = None) -> None:
    """A :class:`SlowInt8Warning` on an x86 CPU that is known to lack VNNI."""
    if has_vnni(cpuinfo, machine) is False:
        warnings.warn(
            "this CPU has no VNNI: INT8 runs in ONNX Runtime's exact kernels, which are slower; "
            "an fp32 bundle may be faster here",
            SlowInt8Warning,
            stacklevel=3,
        )
