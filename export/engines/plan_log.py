"""Reads the compiled plan out of the TensorRT-RTX builder's log.

The builder prints one line a kernel near its end, where profiling is DETAILED and the logger takes
VERBOSE messages. A product's factor and attention's accumulator are not in it: they are searched
for in the engine, where the compiler's graph and attention's CUDA source lie readable.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from export.engines.plan import Kernel, KernelKind, Plan, PlanTensor
from export.engines.plan_layers import with_layers

_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], "
    r"Constants: \[(?P<constants>.*?)\], Outputs: \[(?P<outputs>.*?)\], "
    r"TacticName: (?P<tactic>.*?), StreamId: (?P<stream>\d+).*?, Metadata: ?(?P<nodes>.*)$"
)
_TENSOR = re.compile(r"\{ Name: (.*?), Dimensions: \[(.*?)\],.*?Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
_PLACE = re.compile(r"_myl(?P<subgraph>\d+)_\d+$")  # ends every kernel's name


def nodes_of(metadata: str) -> tuple[str, ...]:
    """The names of ONNX nodes in a kernel's metadata."""
    return tuple(_NODE.findall(metadata))


def plan_lines(message: str) -> list[str]:
    """The lines of the compiled plan in one of the builder's messages."""
    return [line for line in message.splitlines() if line.startswith("Name: ")]


def read_log(
    lines: Iterable[str],
    engine: bytes | memoryview,
    *,
    builder: str,
    gpu: str | None,
    profiles: int = 1,
) -> tuple[Plan, ...]:
    """The plan of each profile from the lines of the builder's log (:func:`plan_lines`).

    The compiler works on each profile's graph for itself and numbers them in the kernels' names:
    one profile after the other. ``engine`` is the serialised engine, searched for the products'
    factors and attention's accumulators. Raises :class:`ValueError` where there is no line, where
    one cannot be read, and where the numbers do not go with the profiles: another release may
    write it otherwise, and half a plan would pass for a whole one.
    """
    facts = EngineFacts.of(engine)
    kernels = [_kernel(line, facts) for line in lines]
    return plans_of(kernels, builder=builder, gpu=gpu, profiles=profiles)


def plans_of(
    kernels: list[Kernel], *, builder: str, gpu: str | None, profiles: int
) -> tuple[Plan, ...]:
    """The kernels, in the order that they were told in, as the plan of each profile."""
    if not kernels:
        raise ValueError("the builder told no kernel of a compiled plan")
    return tuple(
        Plan(builder=builder, gpu=gpu, kernels=with_layers(own))
        for own in _by_profile(kernels, profiles)
    )


def _by_profile(kernels: list[Kernel], profiles: int) -> list[list[Kernel]]:
    if profiles == 1:
        return [kernels]
    graphs: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        place = _PLACE.search(kernel.name)
        graphs.setdefault(place["subgraph"] if place else kernel.name, []).append(kernel)
    if len(graphs) != profiles:
        raise ValueError(f"{len(graphs)} compiled graphs for {profiles} profiles, expected as many")
    return list(graphs.values())


@dataclass(frozen=True)
class EngineFacts:
    """What only the engine's bytes tell.

    ``alphas`` by the product's name, ``accumulators`` by attention's tactic.
    """

    alphas: Mapping[str, float]
    accumulators: Mapping[str, str]

    @staticmethod
    def of(engine: bytes | memoryview) -> EngineFacts:
        """Searched for in a serialised engine."""
        alphas = {
            match[1].decode("ascii", "replace"): _float32(match[2])
            for match in _ALPHA.finditer(engine)
        }
        return EngineFacts(alphas, dict(_accumulators(engine)))

    def alpha(self, name: str) -> float | None:
        """The factor of a product by its kernel's name."""
        return self.alphas.get(_PLACE.sub("", name))


# The compiler's own graph and attention's CUDA source lie readable in the engine.
_ALPHA = re.compile(
    rb'fully_connected=\{ name="([^"]{1,400})"[^\n]{0,4000}? alpha=([0-9A-F]{1,8}) '
)
# Apart, because each begins with a word to search for: 1 GB takes 3 s, as one expression 56 s.
_TACTIC = re.compile(rb"(_gemm_mha_v2_0x[0-9a-f]+)")
_TRAITS = re.compile(rb"fmha::\w+?_(fp16|fp32|bf16)_traits")
_ACCUMULATORS = {b"fp16": "Half", b"fp32": "Float", b"bf16": "Float"}


def _float32(word: bytes) -> float:
    """A number written as the hexadecimal digits of its bits."""
    value: float = struct.unpack(">f", bytes.fromhex(word.decode().zfill(8)))[0]
    return value


def _accumulators(engine: bytes | memoryview) -> Iterator[tuple[str, str]]:
    """Each attention tactic's accumulator: the traits follow its name; Half wins over Float."""
    tactic, known = "", dict[str, str]()
    found = [*_TACTIC.finditer(engine), *_TRAITS.finditer(engine)]
    for match in sorted(found, key=lambda match: match.start()):
        if match.re is _TACTIC:
            tactic = match[1].decode()
        elif known.get(tactic) != "Half":
            known[tactic] = _ACCUMULATORS[match[1]]
            yield tactic, known[tactic]


def _kernel(line: str, facts: EngineFacts) -> Kernel:
    match = _LINE.match(line)
    if match is None:
        raise ValueError(f"a line of the compiled plan that cannot be read: {line[:300]}")
    name, kind = match["name"], KernelKind.of(match["kind"])
    return Kernel(
        name=name,
        kind=kind,
        inputs=_tensors(match["inputs"]),
        constants=_tensors(match["constants"]),
        outputs=_tensors(match["outputs"]),
        tactic=match["tactic"],
        stream=int(match["stream"]),
        nodes=nodes_of(match["nodes"]),
        alpha=facts.alpha(name),
        accumulator=facts.accumulators.get(match["tactic"]),
    )


def _tensors(text: str) -> tuple[PlanTensor, ...]:
    return tuple(
        PlanTensor(name=name, shape=tuple(int(d) for d in dims.split(",") if d), type=kind)
        for name, dims, kind in _TENSOR.findall(text)
    )
