"""WidenAttention: FP16 attention that adds up in FP32, as FlashAttention does."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.rewrite import node, nodes


class WidenAttention(InPlacePass):
    """Attention(Q, K, V) in FP16 → Cast(Attention(Cast(Q), Cast(K), Cast(V))).

    TensorRT's fused kernel then reads FP16 as before and keeps scores and sums in FP32
    accumulators; the casts are no kernels of their own. Without them the accumulators are FP16,
    which loses digits with length and overflows above 65504. BF16's are FP32 already.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        halves = [n for n in nodes(model, "Attention") if n.outputs[0].dtype == ir.DataType.FLOAT16]
        for attention in halves:
            _widen(model, attention)
        return PassResult(model, modified=bool(halves))


def _widen(model: ir.Model, attention: ir.Node) -> None:
    wide = ir.TensorType(ir.DataType.FLOAT)
    for index, letter in enumerate("qkv"):
        operand = attention.inputs[index]
        cast = node("Cast", [operand], operand, name=f"{attention.name}.{letter}", to=wide.dtype)
        cast.outputs[0].type = wide
        attention.replace_input_with(index, cast.outputs[0])
        model.graph.insert_before(attention, cast)
    result = attention.outputs[0]
    narrow = node("Cast", [result], result, name=f"{attention.name}.half", to=ir.DataType.FLOAT16)
    ir.convenience.replace_all_uses_with(result, narrow.outputs[0], replace_graph_outputs=True)
    narrow.replace_input_with(0, result)
    result.type = wide
    model.graph.insert_after(attention, narrow)
