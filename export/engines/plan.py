"""What an engine executes: the kernels that the compiler made, as typed records.

TensorRT-RTX compiles with no GPU present, but only a GPU could load the engine to ask it. The
builder tells its plan in its log instead, one line a kernel, where profiling is DETAILED and the
logger takes VERBOSE messages; factors and accumulators stand in the engine's bytes. Full TensorRT
loads its engine on the GPU that built it, whose inspector gives JSON.

Every kernel's tactic is chosen on the GPU, so types, shapes and launches are known here and
which library kernel runs is not.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import prod

from runtimes.typed_json import Plain


class KernelKind(StrEnum):
    """What the compiler calls a step of its plan."""

    GEMM = "gemm"  # a library's product
    FUSION = "runtime_fusion"  # a product with what follows it
    GENERATED = "kgen"  # element-wise work, data movement, and fused attention
    COPY = "copy"
    SHAPE = "shape_call"  # on the host
    SIGNAL = "signal"  # events between streams
    WAIT = "wait"


# On the host or between streams: nothing is launched.
_NO_LAUNCH = (KernelKind.SHAPE, KernelKind.SIGNAL, KernelKind.WAIT)
ELEMENT_BYTES: Mapping[str, float] = {
    "Float": 4,
    "Half": 2,
    "BFloat16": 2,
    "FP8": 1,
    "Int8": 1,
    "Int4": 0.5,
    "Int32": 4,
    "Int64": 8,
    "Bool": 1,
    "UInt8": 1,
}
_LAYER = re.compile(r"\.layers\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class PlanTensor:
    """An operand of a kernel. -1 in ``shape`` is known at run time; ``type`` is TensorRT's word."""

    name: Plain
    shape: tuple[int, ...]
    type: Plain


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One step of the plan, in the order of its stream.

    ``nodes`` are the names of the ONNX nodes it came from. ``alpha`` is the factor by which a
    product is multiplied before its result is rounded to the output's type; None where it is not
    said. ``accumulator`` is the type in which attention adds up: "Half", "Float", or None.
    """

    name: Plain
    kind: KernelKind
    inputs: tuple[PlanTensor, ...] = ()
    constants: tuple[PlanTensor, ...] = ()
    outputs: tuple[PlanTensor, ...] = ()
    tactic: Plain = ""
    stream: int = 0
    nodes: tuple[Plain, ...] = ()
    alpha: float | None = None
    accumulator: Plain | None = None

    @property
    def launched(self) -> bool:
        """Whether the GPU is given something to do."""
        return self.kind not in _NO_LAUNCH

    @property
    def is_attention(self) -> bool:
        """The whole of softmax(Q·K)·V in one kernel."""
        return "mha" in self.name

    @property
    def is_product(self) -> bool:
        """A matrix product with a weight, or with one that another kernel made."""
        return self.kind in (KernelKind.GEMM, KernelKind.FUSION)

    @property
    def weight(self) -> PlanTensor | None:
        """A product's stored matrix ``[..., K, N]``: its largest constant, or None."""
        matrices = [c for c in self.constants if len(c.shape) > 1 and min(c.shape[-2:]) > 1]
        return max(matrices, key=lambda c: prod(c.shape), default=None) if self.is_product else None

    @property
    def layer(self) -> int | None:
        """The encoder's layer that it belongs to, by the names of its nodes."""
        found = [int(match[1]) for node in self.nodes if (match := _LAYER.search(node))]
        return max(found, default=None)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of one engine. ``builder`` is the compiler and its version."""

    builder: Plain
    gpu: Plain | None
    kernels: tuple[Kernel, ...]

    @property
    def launches(self) -> tuple[Kernel, ...]:
        """The kernels and copies of one call."""
        return tuple(k for k in self.kernels if k.launched)

    @property
    def products(self) -> tuple[Kernel, ...]:
        """The matrix products but for attention's."""
        return tuple(k for k in self.kernels if k.is_product)

    @property
    def attentions(self) -> tuple[Kernel, ...]:
        """The fused attention kernels."""
        return tuple(k for k in self.kernels if k.is_attention)


_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], "
    r"Constants: \[(?P<constants>.*?)\], Outputs: \[(?P<outputs>.*?)\], "
    r"TacticName: (?P<tactic>.*?), StreamId: (?P<stream>\d+).*?, Metadata: ?(?P<nodes>.*)$"
)
_TENSOR = re.compile(r"\{ Name: (.*?), Dimensions: \[(.*?)\],.*?Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")


def plan_lines(message: str) -> list[str]:
    """The lines of the compiled plan in one of the builder's messages."""
    return [line for line in message.splitlines() if line.startswith("Name: ")]


def read_log(
    lines: Iterable[str], engine: bytes | memoryview, *, builder: str, gpu: str | None
) -> Plan:
    """The plan from the lines of the builder's log (:func:`plan_lines`).

    ``engine`` is the serialised engine, searched for the products' factors and attention's
    accumulators. Raises :class:`ValueError` for a line that cannot be read: another release may
    write it otherwise, and half a plan would pass for a whole one.
    """
    facts = _EngineFacts.of(engine)
    kernels = tuple(_kernel(line, facts) for line in lines)
    return Plan(builder=builder, gpu=gpu, kernels=kernels)


@dataclass(frozen=True)
class _EngineFacts:
    """``alphas`` by the product's name, ``accumulators`` by attention's tactic."""

    alphas: Mapping[str, float]
    accumulators: Mapping[str, str]

    @staticmethod
    def of(engine: bytes | memoryview) -> _EngineFacts:
        alphas = {
            match[1].decode("ascii", "replace"): _float32(match[2])
            for match in _ALPHA.finditer(engine)
        }
        return _EngineFacts(alphas, dict(_accumulators(engine)))


# The compiler's own graph and attention's CUDA source lie readable in the engine.
_ALPHA = re.compile(
    rb'fully_connected=\{ name="([^"]{1,400})"[^\n]{0,4000}? alpha=([0-9A-F]{1,8}) '
)
_TRAITS = re.compile(rb"(_gemm_mha_v2_0x[0-9a-f]+)|fmha::\w+?_(fp16|fp32|bf16)_traits")
_ACCUMULATORS = {b"fp16": "Half", b"fp32": "Float", b"bf16": "Float"}


def _float32(word: bytes) -> float:
    """A number written as the hexadecimal digits of its bits."""
    value: float = struct.unpack(">f", bytes.fromhex(word.decode().zfill(8)))[0]
    return value


def _accumulators(engine: bytes | memoryview) -> Iterator[tuple[str, str]]:
    """Each attention tactic's accumulator: the traits follow its name; Half wins over Float."""
    tactic, known = "", dict[str, str]()
    for match in _TRAITS.finditer(engine):
        if match[1] is not None:
            tactic = match[1].decode()
        elif known.get(tactic) != "Half":
            known[tactic] = _ACCUMULATORS[match[2]]
            yield tactic, known[tactic]


def _kernel(line: str, facts: _EngineFacts) -> Kernel:
    match = _LINE.match(line)
    if match is None:
        raise ValueError(f"a line of the compiled plan that cannot be read: {line[:300]}")
    name, kind = match["name"], KernelKind(match["kind"])
    return Kernel(
        name=name,
        kind=kind,
        inputs=_tensors(match["inputs"]),
        constants=_tensors(match["constants"]),
        outputs=_tensors(match["outputs"]),
        tactic=match["tactic"],
        stream=int(match["stream"]),
        nodes=tuple(_NODE.findall(match["nodes"])),
        alpha=facts.alphas.get(re.sub(r"_myl\d+_\d+$", "", name)),
        accumulator=facts.accumulators.get(match["tactic"]),
    )


def _tensors(text: str) -> tuple[PlanTensor, ...]:
    return tuple(
        PlanTensor(name=name, shape=tuple(int(d) for d in dims.split(",") if d), type=kind)
        for name, dims, kind in _TENSOR.findall(text)
    )
