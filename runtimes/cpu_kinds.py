"""Kinds of CPU, one row each: how each is told, and which executor and precision it is given.

Flags are those of /proc/cpuinfo. What a row recommends was measured on the CPU that it names, or
predicted from what the CPU multiplies.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtimes.choices import Precision, Target

CPUINFO = Path("/proc/cpuinfo")
# Any of them: x86 multiplies INT8 and adds up in 32 bits.
VNNI_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})
_X86, _ARM = ("x86_64", "amd64"), ("aarch64", "arm64")


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """The CPU of a machine: its architecture, what it can do, and how much of it there is.

    ``flags`` are None where nothing says them; ``cores`` are those this process may use.
    """

    machine: str
    flags: frozenset[str] | None
    model: str
    cores: int

    @property
    def x86(self) -> bool:
        """Whether the flags are those of x86."""
        return self.machine in _X86


def read_cpu(cpuinfo: Path = CPUINFO, machine: str | None = None) -> Cpu:
    """This machine's CPU; ``machine`` is the architecture as :func:`platform.machine` names it."""
    named = (machine or platform.machine()).lower()
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    stated = [(key.strip(), value.strip()) for key, _, value in (s.partition(":") for s in lines)]
    listed = [value for key, value in stated if key in ("flags", "Features")]
    return Cpu(
        machine=named,
        flags=frozenset(" ".join(listed).split()) if listed else None,
        model=_model(stated) or named,
        cores=_cores(),
    )


def _model(stated: list[tuple[str, str]]) -> str:
    """The model's name; of ARM, which has none, the numbers of its maker and part."""
    for keys in (("model name",), ("CPU implementer", "CPU part")):
        if all(found := [next((v for k, v in stated if k == key), "") for key in keys]):
            return " ".join(found)
    return ""


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class Advice:
    """A target and a precision; ``rest`` is that of what INT8 does not quantise, in OpenVINO."""

    target: Target
    precision: Precision
    rest: Precision | None = None

    def __str__(self) -> str:
        rest = "" if self.rest is None else f" with the rest in {self.rest}"
        return f"{self.target} in {self.precision}{rest}"


@dataclass(frozen=True, kw_only=True)
class CpuKind:
    """One row.

    A CPU is of the first kind that names its architecture (none: any) and of whose ``flags`` it
    has at least one of each set. ``floats`` is what is recommended where nothing is quantised,
    ``int8`` for INT8, None where that is slower than ``floats``. ``measured`` names the CPU on
    which both were; None: they are predicted.
    """

    label: str
    examples: str
    machines: tuple[str, ...] = _X86
    flags: tuple[frozenset[str], ...] = ()
    floats: Advice
    int8: Advice | None
    measured: str | None = None

    @property
    def basis(self) -> str:
        """What the recommendation rests on, as it is printed."""
        return "predicted" if self.measured is None else f"measured on {self.measured}"

    def has(self, cpu: Cpu) -> bool:
        """Whether the CPU is of this kind, or of a better one."""
        known = not self.machines or cpu.machine in self.machines
        return known and all(wanted & (cpu.flags or frozenset()) for wanted in self.flags)

    def target_for(self, precision: Precision) -> Target:
        """What runs a precision; ONNX Runtime where no recommendation is in it.

        Its FP32 and OpenVINO's take as long (Zen 4), and every bundle has its graph.
        """
        fitting = (advice.target for advice in self._advice() if advice.precision is precision)
        return next(fitting, Target.ONNXRUNTIME)

    def precision_for(self, target: Target) -> Precision:
        """The float precision that is fastest in a target; FP32 where ``floats`` is for another."""
        return self.floats.precision if self.floats.target is target else Precision.FP32

    def _advice(self) -> Iterator[Advice]:
        yield self.floats
        if self.int8 is not None:
            yield self.int8


_FP32 = Advice(target=Target.ONNXRUNTIME, precision=Precision.FP32)
_INT8 = Advice(target=Target.ONNXRUNTIME, precision=Precision.INT8)
_BF16 = Advice(target=Target.OPENVINO, precision=Precision.BF16)
_INT8_BF16 = Advice(target=Target.OPENVINO, precision=Precision.INT8, rest=Precision.BF16)

# From the best to the least; the last row is every other CPU.
CPU_KINDS = (
    CpuKind(
        label="AMX",
        examples="Intel Sapphire Rapids and later",
        flags=(frozenset({"amx_bf16"}), frozenset({"amx_int8"})),
        floats=_BF16,
        int8=_INT8_BF16,
    ),
    CpuKind(
        label="AVX512_BF16 and VNNI",
        examples="AMD Zen 4 and 5, Intel Cooper Lake",
        flags=(frozenset({"avx512_bf16"}), frozenset({"avx512_vnni"})),
        floats=_BF16,
        int8=_INT8_BF16,
        measured="Zen 4 and Zen 5",
    ),
    CpuKind(
        label="VNNI without BF16",
        examples="Intel Cascade Lake and Ice Lake, Intel Core from the 12th generation on",
        flags=(VNNI_FLAGS,),
        floats=_FP32,
        int8=_INT8,
    ),
    CpuKind(
        label="AVX2 without VNNI",
        examples="AMD Zen 1 to 3, Intel Haswell to Skylake",
        flags=(frozenset({"avx2"}),),
        floats=_FP32,
        int8=None,
    ),
    CpuKind(
        label="ARM",
        examples="AWS Graviton, NVIDIA Grace, Ampere Altra",
        machines=_ARM,
        floats=_FP32,
        int8=_INT8,
    ),
    CpuKind(
        label="any other",
        examples="x86 before AVX2, systems that do not say what their CPU has",
        machines=(),
        floats=_FP32,
        int8=None,
    ),
)


def cpu_kind(cpu: Cpu) -> CpuKind:
    """The row of a CPU."""
    return next(kind for kind in CPU_KINDS if kind.has(cpu))
