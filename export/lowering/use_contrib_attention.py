"""UseContribAttention: O(n) memory where no token is padding, a masked kernel where some are.

ONNX Runtime's flash kernel on a CPU runs only without a mask, so each Attention becomes an If on
"no padding anywhere": an unmasked MultiHeadAttention, or one with a key padding mask. The graph
stays right for any batch, and callers who send equal lengths get the memory of flash attention.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.rewrite import CONTRIB, drop_unused, node, nodes, replace
from export.lowering.padding import choice, insert_first, mask_input, no_padding


class UseContribAttention(InPlacePass):
    """requires: an ``attention_mask`` input [batch, sequence]. ensures: no Attention is left."""

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        attentions = nodes(model, "Attention")
        if not attentions:
            return PassResult(model, modified=False)
        full, padding = no_padding(model), _padding_mask(model)
        for old in attentions:
            q, k, v = old.inputs[:3]
            flash = _attention(old, [q, k, v], "flash")
            masked = _attention(old, [q, k, v, None, padding], "masked")
            replace(model, [old], [choice(old, full, flash, masked)])
        drop_unused(model)
        model.graph.opset_imports[CONTRIB] = 1
        return PassResult(model, modified=True)


def _padding_mask(model: ir.Model) -> ir.Value:
    """The mask as INT32, which MultiHeadAttention takes."""
    padding = node("Cast", [mask_input(model)], name="mask.int32", to=ir.DataType.INT32.value)
    insert_first(model, padding)
    return padding.outputs[0]


def _attention(old: ir.Node, inputs: list[ir.Value | None], branch: str) -> ir.Node:
    heads = old.attributes["q_num_heads"].as_int()
    name = f"{old.name}.{branch}"
    return node(
        "MultiHeadAttention", inputs, old.outputs[0], name=name, domain=CONTRIB, num_heads=heads
    )
