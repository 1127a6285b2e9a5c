"""AdaptAttention: the mask shape and the attribute TensorRT's fused attention wants."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.rewrite import drop_unused, nodes, producer


class AdaptAttention(InPlacePass):
    """Feeds Attention the mask ``[batch, 1, 1, sequence]``; lets FP32 attention decompose.

    TensorRT broadcasts the mask itself, so nothing of size batch × sequence² is made. FP16 and
    BF16 have fused kernels and a build must fail rather than lose them in silence; FP32 has none
    and carries TRT_decomposable. ensures: ONNX Runtime refuses the result (unknown attribute).
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        attentions = nodes(model, "Attention")
        for attention in attentions:
            expand = producer(attention.inputs[3], "Expand")
            if expand is not None:
                attention.replace_input_with(3, expand.inputs[0])
            if attention.outputs[0].dtype == ir.DataType.FLOAT:
                attention.attributes.add(ir.AttrInt64("TRT_decomposable", 1))
        drop_unused(model)
        return PassResult(model, modified=bool(attentions))
