"""UseContribRotary: ONNX Runtime's own rotary kernel, which takes ``[batch, sequence, hidden]``."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.rewrite import CONTRIB, node, nodes, replace


class UseContribRotary(InPlacePass):
    """requires: RotaryEmbedding with positions ``[batch, sequence]``. ensures: none is left."""

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        rotaries = nodes(model, "RotaryEmbedding")
        for old in rotaries:
            x, cos, sin, positions = old.inputs
            new = node(
                "RotaryEmbedding",
                [x, positions, cos, sin],
                old.outputs[0],
                name=f"{old.name}.contrib",
                domain=CONTRIB,
                num_heads=old.attributes["num_heads"].as_int(),
                interleaved=0,
            )
            replace(model, [old], [new])
        if rotaries:
            model.graph.opset_imports[CONTRIB] = 1
        return PassResult(model, modified=bool(rotaries))
