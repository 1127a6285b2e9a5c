"""UseIntegerMatMul: Q/DQ around a product becomes ONNX Runtime's integer kernel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.rewrite import (
    CONTRIB,
    constant,
    drop_unused,
    node,
    nodes,
    producer,
    replace,
    vector_user,
)


class UseIntegerMatMul(InPlacePass):
    """MatMul(DQ(Q(x)), DQ(W)) · shares + bias → MatMulIntegerToFloat(Q'(x), W, scales, bias).

    Shares and bias may be missing. Its fast kernels take an unsigned left side: Q' gives UINT8
    around 128, which are the same 256 steps at the same places. Products of other types stay as
    they are. requires: symmetric INT8, after the fusions that take a bias for themselves. ensures:
    matched products are one integer kernel each.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        modified = False
        for gemm in nodes(model, "MatMul"):
            left = producer(gemm.inputs[0], "DequantizeLinear")
            right = producer(gemm.inputs[1], "DequantizeLinear")
            if left is None or right is None:
                continue
            quantised = producer(left.inputs[0], "QuantizeLinear")
            if quantised is None or quantised.outputs[0].dtype != ir.DataType.INT8:
                continue
            _replace(model, gemm, quantised, right)
            modified = True
        if modified:
            drop_unused(model)
            model.graph.opset_imports[CONTRIB] = 1
        return PassResult(model, modified=modified)


def _replace(model: ir.Model, gemm: ir.Node, quantised: ir.Node, right: ir.Node) -> None:
    x, scale = quantised.inputs[:2]
    middle = constant(model, "integer.middle", np.array(128, np.uint8))
    unsigned = node("QuantizeLinear", [x, scale, middle], name=f"{gemm.name}.quantise")
    unsigned.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    weight, weight_scale = right.inputs[:2]
    old, scales, bias = [gemm], list[ir.Node](), None
    if (shares := vector_user(old[-1], "Mul")) is not None:
        scales = [node("Mul", [weight_scale, shares[1]], name=f"{gemm.name}.scales")]
        weight_scale = scales[0].outputs[0]  # of constants: ONNX Runtime folds it
        old.append(shares[0])
    if (addition := vector_user(old[-1], "Add")) is not None:
        old.append(addition[0])
        bias = addition[1]
    # Not left out, and each GEMM's own: for CPUs without VNNI ONNX Runtime turns weight and zero
    # point into UINT8 together.
    zero = constant(model, f"{gemm.name}.zero", np.array(0, np.int8))
    new = node(
        "MatMulIntegerToFloat",
        [unsigned.outputs[0], weight, scale, weight_scale, middle, zero, bias],
        old[-1].outputs[0],
        name=f"{gemm.name}.integer",
        domain=CONTRIB,
    )
    replace(model, old, [unsigned, *scales, new])
