"""UseContribAttention: O(n) memory where no token is padding, a masked kernel where some are.

ONNX Runtime's flash kernel on a CPU runs only without a mask, so each Attention becomes an If on
"no padding anywhere": an unmasked MultiHeadAttention, or one with a key padding mask. The graph
stays right for any batch, and callers who send equal lengths get the memory of flash attention.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.rewrite import CONTRIB, constant, drop_unused, node, nodes, replace
from runtimes.tensors import ATTENTION_MASK


class UseContribAttention(InPlacePass):
    """requires: an ``attention_mask`` input [batch, sequence]. ensures: no Attention is left."""

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        attentions = nodes(model, "Attention")
        if not attentions:
            return PassResult(model, modified=False)
        full, padding = _mask_values(model)
        for old in attentions:
            heads = old.attributes["q_num_heads"].as_int()
            q, k, v = old.inputs[:3]
            new = node(
                "If",
                [full],
                old.outputs[0],
                name=f"{old.name}.if",
                then_branch=_branch(old, [q, k, v], heads, "flash"),
                else_branch=_branch(old, [q, k, v, None, padding], heads, "masked"),
            )
            replace(model, [old], [new])
        drop_unused(model)
        model.graph.opset_imports[CONTRIB] = 1
        return PassResult(model, modified=True)


def _mask_values(model: ir.Model) -> tuple[ir.Value, ir.Value]:
    """``full`` (bool scalar: every token counts) and the INT32 padding mask."""
    mask = next(v for v in model.graph.inputs if v.name == ATTENTION_MASK.name)
    least = node("ReduceMin", [mask], name="mask.least", keepdims=0)
    one = constant(model, "mask.one", np.array(1, np.int64))
    full = node("Equal", [least.outputs[0], one], name="mask.full")
    padding = node("Cast", [mask], name="mask.int32", to=ir.DataType.INT32.value)
    first = next(iter(model.graph))
    for new in (least, full, padding):
        model.graph.insert_before(first, new)
    return full.outputs[0], padding.outputs[0]


def _branch(old: ir.Node, inputs: list[ir.Value | None], heads: int, branch: str) -> ir.Graph:
    name = f"{old.name}.{branch}"
    attention = node(
        "MultiHeadAttention", inputs, old.outputs[0], name=name, domain=CONTRIB, num_heads=heads
    )
    return ir.Graph([], [attention.outputs[0]], nodes=[attention], name=name)
