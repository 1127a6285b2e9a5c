"""FuseSkipLayerNorm: residual sum, projection bias and LayerNorm in one pass over memory."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.rewrite import CONTRIB, node, nodes, only_use, producer, replace, split_vector

_EPSILON = 1e-5  # the standard operator's default; the contrib one's is 1e-12


class FuseSkipLayerNorm(InPlacePass):
    """LayerNormalization(residual + (product + bias)) → SkipLayerNormalization.

    requires: the sums have no other use. ensures: matched patterns are one contrib node each.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        modified = False
        for norm in nodes(model, "LayerNormalization"):
            if (match := _match(norm)) is None:
                continue
            biased, total, product, bias, residual = match
            epsilon = norm.attributes.get("epsilon")
            new = node(
                "SkipLayerNormalization",
                [product, residual, norm.inputs[1], norm.inputs[2], bias],
                norm.outputs[0],
                name=f"{norm.name}.skip",
                domain=CONTRIB,
                epsilon=_EPSILON if epsilon is None else epsilon.as_float(),
            )
            replace(model, [biased, total, norm], [new])
            modified = True
        if modified:
            model.graph.opset_imports[CONTRIB] = 1
        return PassResult(model, modified=modified)


def _match(
    norm: ir.Node,
) -> tuple[ir.Node, ir.Node, ir.Value, ir.Value, ir.Value] | None:
    """(inner sum, outer sum, product, bias, residual) of a LayerNorm over the last axis."""
    axis = norm.attributes.get("axis")
    total = producer(norm.inputs[0], "Add")
    if len(norm.inputs) < 3 or (axis is not None and axis.as_int() != -1):
        return None
    if total is None or not only_use(total.outputs[0]):
        return None
    for branch, residual in (total.inputs, reversed(total.inputs)):
        biased = producer(branch, "Add")
        if biased is None or not only_use(biased.outputs[0]):
            continue
        operands = split_vector(biased)
        if operands is not None and residual is not None:
            return biased, total, *operands, residual
    return None
