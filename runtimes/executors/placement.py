"""Which provider of ONNX Runtime runs which node, and what may not be left to the CPU.

A provider without a kernel for a node leaves it to the CPU in silence: the vectors are right, and
each such node costs copies to the host and back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from runtimes.errors import MissingError

# The session's option that makes ``get_provider_graph_assignment_info`` answer.
RECORDED = "session.record_ep_graph_assignment_info"
# Every operator of ours with an operand of size batch × tokens × width. Shapes and masks, which
# ONNX Runtime itself keeps on the CPU, have none.
HEAVY = {
    "Attention",
    "DequantizeLinear",
    "Gelu",
    "Gemm",
    "LayerNormalization",
    "MatMul",
    "MultiHeadAttention",
    "QuantizeLinear",
    "RotaryEmbedding",
    "Softmax",
}


class Node(Protocol):
    """A node as ONNX Runtime names it; ``name`` may be empty."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def op_type(self) -> str: ...  # noqa: D102


class Assignment(Protocol):
    """Nodes that one provider took together."""

    @property
    def ep_name(self) -> str: ...  # noqa: D102

    def get_nodes(self) -> Iterable[Node]: ...  # noqa: D102


def require_placed(assignments: Iterable[Assignment], provider: str) -> None:
    """Raise :class:`MissingError` where another provider than ``provider`` got a heavy node.

    Nodes in the branches of an If count too.
    """
    elsewhere: Counter[tuple[str, str]] = Counter()
    for assignment in assignments:
        if assignment.ep_name != provider:
            elsewhere.update((assignment.ep_name, n.op_type) for n in assignment.get_nodes())
    heavy = {key: count for key, count in elsewhere.items() if key[1] in HEAVY}
    if heavy:
        listed = ", ".join(f"{n} {op} on {ep}" for (ep, op), n in sorted(heavy.items()))
        raise MissingError(
            f"{provider} has no kernel for nodes that it should run: {listed}; build the bundle "
            "in fp16 for this GPU, or use the onnxruntime-gpu that the project names"
        )
