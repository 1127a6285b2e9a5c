"""FuseSkipLayerNorm: residual sum, projection bias and LayerNorm in one pass over memory."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.lowering.rewrite import CONTRIB, is_weight, node, nodes, only_use, producer, replace


class FuseSkipLayerNorm(InPlacePass):
    """LayerNormalization(residual + (product + bias)) → SkipLayerNormalization.

    requires: the sums have no other use. ensures: matched patterns are one contrib node each.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        modified = False
        for norm in nodes(model, "LayerNormalization"):
            total = producer(norm.inputs[0], "Add")
            if total is None or not only_use(total.outputs[0]):
                continue
            residual, branch = total.inputs
            biased = producer(branch, "Add")
            if biased is None or not only_use(biased.outputs[0]) or not _has_bias(biased):
                continue
            product, bias = biased.inputs
            new = node(
                "SkipLayerNormalization",
                [product, residual, norm.inputs[1], norm.inputs[2], bias],
                norm.outputs[0], name=f"{norm.name}.skip", domain=CONTRIB,
                epsilon=norm.attributes["epsilon"].as_float(),
            )  # fmt: skip
            replace(model, [biased, total, norm], [new])
            modified = True
        if modified:
            model.graph.opset_imports[CONTRIB] = 1
        return PassResult(model, modified=modified)


def _has_bias(biased: ir.Node) -> bool:
    """The second operand is a weight, possibly widened by a Cast."""
    cast = producer(biased.inputs[1], "Cast")
    return is_weight(biased.inputs[1]) or (cast is not None and is_weight(cast.inputs[0]))
