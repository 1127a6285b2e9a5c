"""FuseBiasGelu: FC1's bias and the erf GELU in one pass over memory."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.rewrite import CONTRIB, node, nodes, only_use, producer, replace, split_vector


class FuseBiasGelu(InPlacePass):
    """Gelu(product + bias) → BiasGelu.

    requires: the erf form and a sum with no other use. ensures: matched patterns are one node.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        modified = False
        for gelu in nodes(model, "Gelu"):
            biased = producer(gelu.inputs[0], "Add")
            form = gelu.attributes.get("approximate")
            if biased is None or not only_use(biased.outputs[0]):
                continue
            if form is not None and form.as_string() != "none":
                continue
            if (operands := split_vector(biased)) is None:
                continue
            new = node(
                "BiasGelu",
                operands,
                gelu.outputs[0],
                name=f"{gelu.name}.bias",
                domain=CONTRIB,
            )
            replace(model, [biased, gelu], [new])
            modified = True
        if modified:
            model.graph.opset_imports[CONTRIB] = 1
        return PassResult(model, modified=modified)
