"""StackLowRank: an adapter bank's second product inside the layer's own.

``x·W + low·B`` is ``[x, low]·[W; B]``: one product instead of two and a sum. What it saves are
passes over the output, what it costs are passes over the input, x, which is copied into longer
rows. ONNX Runtime stacks the weights once, at load, and adds in a kernel of its own (three passes
against two). TensorRT puts the sum into the next kernel and, unstacked, x·W and x·A into one
product (two against three).
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.rewrite import Chain, is_weight, nodes, only_use, producer


class StackLowRank(InPlacePass):
    """requires: sums of two products with constant weights. ensures: none is left that pays.

    ``saved`` and ``paid`` are the executor's passes over the output and over the input.
    """

    def __init__(self, *, saved: int, paid: int) -> None:
        self.saved, self.paid = saved, paid

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        modified = False
        for total in nodes(model, "Add"):
            wide, low = (_weighted_product(value) for value in total.inputs)
            if wide is not None and low is not None and self._pays(wide.inputs[1]):
                _stack(model, total, wide, low)
                modified = True
        return PassResult(model, modified=modified)

    def _pays(self, weight: ir.Value | None) -> bool:
        """Whether the passes saved over W ``[in, out]``'s output outweigh those over its input."""
        if weight is None or weight.shape is None:
            return False
        inputs, outputs = weight.shape
        if not (isinstance(inputs, int) and isinstance(outputs, int)):
            return False
        return self.paid * inputs < self.saved * outputs


def _weighted_product(value: ir.Value | None) -> ir.Node | None:
    """The MatMul with a constant weight that computes ``value`` for one use."""
    product = producer(value, "MatMul")
    if product is None or not only_use(product.outputs[0]) or not _is_constant(product.inputs[1]):
        return None
    return product


def _is_constant(value: ir.Value | None) -> bool:
    """A weight, maybe widened; an adapter slot's is an input that runs can change."""
    cast = producer(value, "Cast")
    weight = cast.inputs[0] if cast is not None else value
    return is_weight(weight) and not weight.is_graph_input()


def _stack(model: ir.Model, total: ir.Node, wide: ir.Node, low: ir.Node) -> None:
    chain = Chain(f"{total.name}.stacked")
    rows = chain.op("Concat", [wide.inputs[0], low.inputs[0]], "rows", axis=-1)
    weights = chain.op("Concat", [wide.inputs[1], low.inputs[1]], "weights", axis=0)
    chain.op("MatMul", [rows, weights], "product")
    for product in (wide, low):
        for index in range(2):
            product.replace_input_with(index, None)
    chain.replace(model, total)
    model.graph.remove([wide, low], safe=True)
