"""Which choices no bundle combines, one row each.

A build that asks for one is refused before any work (:class:`export.spec.BuildSpec`), and a
manifest that claims one is not read (:mod:`runtimes.manifest_rules`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runtimes.choices import (
    AdapterMode,
    Embeddings,
    HeadName,
    Interface,
    Layout,
    Precision,
    Target,
)
from runtimes.schemes import RESTS, SCHEMES, Scheme
from runtimes.tables import TABLES, Table


@dataclass(frozen=True, kw_only=True)
class Combination:
    """The choices that depend on each other."""

    precision: Precision
    target: Target
    adapter: AdapterMode
    interface: Interface
    head: HeadName
    layout: Layout
    rest: Precision | None = None
    embeddings: Embeddings = Embeddings.SAME
    pruned: bool = False  # whether tokens were left out of the vocabulary

    @property
    def table(self) -> Table:
        """What is particular to how the embeddings are stored."""
        return TABLES[self.embeddings]

    @property
    def scheme(self) -> Scheme:
        """What is particular to the precision."""
        return SCHEMES[self.precision]

    @property
    def official(self) -> bool:
        """Whether the graph is called as the official file is."""
        return self.interface is Interface.OFFICIAL

    @property
    def slot(self) -> bool:
        """Whether the adapter comes at run time."""
        return self.adapter is AdapterMode.SLOT


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What is refused, and how that is said.

    ``advice`` is for the build, a format with the combination as ``c``. In a manifest the entry
    ``key`` is at fault, and ``expected`` says what should stand there.
    """

    refuses: Callable[[Combination], bool]
    advice: str
    key: str
    expected: str


def has_rest(precision: Precision, target: Target) -> bool:
    """Whether the type of what is not quantised is a choice: it is OpenVINO's, not the graph's."""
    return target is Target.OPENVINO and SCHEMES[precision].storage is not None


def fits_hub(adapter: AdapterMode, head: HeadName, *, pruned: bool = False) -> bool:
    """Whether hub clients, which give a graph ids and a mask, get a text's vector from it.

    They check no ids, so of a ``pruned`` vocabulary they would get wrong vectors in silence.
    """
    return adapter is AdapterMode.MERGED and head is HeadName.SENTENCE and not pruned


RULES = (
    Rule(
        refuses=lambda c: c.head is not HeadName.SENTENCE and (c.official or c.slot),
        advice="HEAD={c.head}: expected ADAPTER=merged or switchable, INTERFACE=sentence",
        key="head",
        expected="sentence where the adapter is a slot or the interface official",
    ),
    Rule(
        refuses=lambda c: c.official and c.adapter is not AdapterMode.SWITCHABLE,
        advice="INTERFACE=official has a task_id, so it needs every adapter: add "
        "ADAPTER=switchable",
        key="interface",
        expected="sentence, or a switchable adapter",
    ),
    Rule(
        refuses=lambda c: (c.official or c.slot) and c.target is not Target.ONNXRUNTIME,
        advice="ADAPTER=slot and INTERFACE=official are for ONNX Runtime: add TARGET=onnxruntime",
        key="target",
        expected="onnxruntime where the adapter is a slot or the interface official",
    ),
    Rule(
        refuses=lambda c: (c.rest in RESTS) is not has_rest(c.precision, c.target),
        advice="REST={c.rest}: expected bf16 or fp32 with PRECISION=int8 TARGET=openvino, and "
        "nothing elsewhere",
        key="rest",
        expected="bf16 or fp32 where OpenVINO runs what is quantised, else null",
    ),
    Rule(
        refuses=lambda c: c.layout is Layout.HUB and not fits_hub(c.adapter, c.head),
        advice="LAYOUT=hub is for clients that know one task and one vector per text: expected "
        "ADAPTER=merged, HEAD=sentence",
        key="layout",
        expected="flat, or a merged adapter and the sentence head",
    ),
    Rule(
        refuses=lambda c: c.pruned and (c.official or c.slot or c.layout is Layout.HUB),
        advice="VOCABULARY: clients of LAYOUT=hub and INTERFACE=official check no token ids, and "
        "an adapter slot takes a row for every token; expected LAYOUT=flat, INTERFACE=sentence, "
        "ADAPTER=merged or switchable",
        key="layout",
        expected="flat, with the sentence interface and no slot, where tokens were left out",
    ),
    Rule(
        refuses=lambda c: c.slot and c.scheme.slot_refusal is not None,
        advice="ADAPTER=slot: {c.scheme.slot_refusal}",
        key="precision",
        expected="one that an adapter slot can have",
    ),
    Rule(
        refuses=lambda c: c.target not in c.scheme.targets,
        advice="PRECISION={c.precision}: TARGET={c.target} multiplies no {c.scheme.label}; "
        "expected TARGET={c.scheme.engines}",
        key="target",
        expected="one that multiplies the precision",
    ),
    Rule(
        refuses=lambda c: c.target not in c.table.targets,
        advice="EMBEDDINGS={c.embeddings}: TARGET={c.target} keeps no table in blocks that share a "
        "scale; use EMBEDDINGS=int8",
        key="embeddings",
        expected="one that the target reads",
    ),
)


def refused_by(combination: Combination) -> Rule | None:
    """The first rule that refuses the combination; None where a bundle may have it."""
    return next((rule for rule in RULES if rule.refuses(combination)), None)
