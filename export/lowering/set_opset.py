"""SetOpset: declares opset 20 once nothing newer is left."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.rewrite import nodes

OPSET = 20  # what the parser of JetPack 6, TensorRT 10.3, reads at most
_NEWER = ("Attention", "RotaryEmbedding", "RMSNormalization")


class SetOpset(InPlacePass):
    """requires: no operator newer than opset 20. ensures: the model declares opset 20.

    Every operator the encoder uses means the same in 20 and 23, which only add element types.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        for op_type in _NEWER:
            if nodes(model, op_type):
                raise ValueError(f"{op_type} is newer than opset {OPSET}")
        model.graph.opset_imports[""] = OPSET
        model.ir_version = 9
        return PassResult(model, modified=True)
