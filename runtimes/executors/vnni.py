"""Whether this CPU multiplies INT8 without overflow.

x86 CPUs before VNNI add two products of an unsigned and a signed byte in 16 bits and saturate.
ONNX Runtime then takes slower, exact kernels where ``OrtRuntime`` asks for them; the vectors stay
right, the speed of INT8 is gone.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from runtimes.cpu_kinds import CPUINFO, VNNI_FLAGS, read_cpu


class SlowInt8Warning(UserWarning):
    """INT8 runs on this CPU, exactly but slowly."""


def has_vnni(cpuinfo: Path = CPUINFO, machine: str | None = None) -> bool | None:
    """True on x86 with VNNI (or AMX) and on other machines; None where nothing says."""
    cpu = read_cpu(cpuinfo, machine)
    if not cpu.x86:
        return True  # ARM's dot products accumulate in 32 bits
    return None if cpu.flags is None else bool(cpu.flags & VNNI_FLAGS)


def warn_without_vnni(cpuinfo: Path = CPUINFO, machine: str | None = None) -> None:
    """A :class:`SlowInt8Warning` on an x86 CPU that is known to lack VNNI."""
    if has_vnni(cpuinfo, machine) is False:
        warnings.warn(
            "this CPU has no VNNI: INT8 runs in ONNX Runtime's exact kernels, which are slower; "
            "an fp32 bundle may be faster here",
            SlowInt8Warning,
            stacklevel=3,
        )
