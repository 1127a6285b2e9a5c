"""The gate's executor for what a compiled engine computes: its plan's numerics, on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from export.emulation.engine import EmulatedEngine
from export.engines.plan import Plan
from export.gate.compare import embed
from export.gate.texts import ParityText
from runtimes.arrays import Vectors
from runtimes.text.tokens import TextTokenizer


def emulate(
    graph: Path, plan: Plan, texts: Sequence[ParityText], tokenizer: TextTokenizer
) -> Vectors:
    """What the engine of ``plan`` would make of texts, ``[texts, hidden]``.

    ``graph`` is the file that the engine was built from, with its weights beside it.
    """
    with EmulatedEngine(graph, plan) as engine:
        return embed(engine, texts, tokenizer)
