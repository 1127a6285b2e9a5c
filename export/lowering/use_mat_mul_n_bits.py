"""UseMatMulNBits: a product with a weight that alone is quantised becomes ONNX Runtime's kernel.

Its numbers are unsigned around 8 or 128 and lie as the bundle's do but for that: one bit of each
is turned, once, when ONNX Runtime folds constants at load. So engines and CPUs read one copy.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.rewrite import (
    CONTRIB,
    Chain,
    constant,
    drop_unused,
    nodes,
    producer,
    replace,
    vector_user,
)

# FP32 activations and sums. ONNX Runtime's own choice for DequantizeLinear before a MatMul is 4:
# activations rounded to INT8, block by block, which is another scheme.
_IN_FLOAT = 1
# A channel without blocks is cut into the widest that the operator's kernels are made for.
_WIDEST = 256


class UseMatMulNBits(InPlacePass):
    """MatMul(x, Transpose(DQ(Wᵀ, scales))) + bias → MatMulNBits(x, Wᵀ', scales', bias).

    The bias may be missing. requires: FP32 activations, symmetric INT4 or INT8 in a weight file,
    after the fusions that take a bias for themselves. ensures: no such product is left.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        modified = False
        for gemm in nodes(model, "MatMul"):
            turned = producer(gemm.inputs[1], "Transpose")
            restored = producer(turned.inputs[0], "DequantizeLinear") if turned else None
            if restored is not None:
                _replace(model, gemm, restored)
                modified = True
        if modified:
            drop_unused(model)
            model.graph.opset_imports[CONTRIB] = 1
        return PassResult(model, modified=modified)


def _replace(model: ir.Model, gemm: ir.Node, restored: ir.Node) -> None:
    weight, scales = restored.inputs[:2]
    if weight is None or weight.shape is None or weight.dtype is None or scales is None:
        raise ValueError(f"{gemm.name}: its weight has no type or shape")
    columns, rows = weight.shape.numpy()
    bits = weight.dtype.bitwidth
    block = restored.attributes.get_int("block_size", 0)
    chain = Chain(f"{gemm.name}.bits")
    if not block:
        block = _dividing(rows)
        grid = constant(model, f"{gemm.name}.grid", np.array([columns, rows // block], np.int64))
        column = constant(model, "bits.column", np.array([-1, 1], np.int64))
        scales = chain.op("Reshape", [scales, column], "scale")
        scales = chain.op("Expand", [scales, grid], "scales")
    middle = constant(model, f"bits.middle{bits}", np.array(0x88 if bits == 4 else 0x80, np.uint8))
    raw = _bytes(model, weight, (columns, rows // block, block * bits // 8))
    unsigned = chain.op("BitwiseXor", [raw, middle], "unsigned")
    old, bias = [gemm], None
    if (addition := vector_user(gemm, "Add")) is not None:
        old.append(addition[0])
        bias = addition[1]
    chain.op(
        "MatMulNBits",
        [gemm.inputs[0], unsigned, scales, *([] if bias is None else [None, None, bias])],
        "product",
        domain=CONTRIB,
        K=rows,
        N=columns,
        bits=bits,
        block_size=block,
        accuracy_level=_IN_FLOAT,
    )
    last = chain.nodes[-1].outputs[0]
    last.type, last.shape = old[-1].outputs[0].type, old[-1].outputs[0].shape
    replace(model, old, chain.nodes)


def _dividing(rows: int) -> int:
    """The widest block of a power of two, as the operator wants it, that divides ``rows``."""
    return min(_WIDEST, rows & -rows)


def _bytes(model: ir.Model, weight: ir.Value, shape: tuple[int, ...]) -> ir.Value:
    """The very bytes of a stored weight as UINT8."""
    stored = weight.const_value
    if not isinstance(stored, ir.ExternalTensor):
        raise ValueError(f"{weight.name}: lies in no weight file")
    name = f"{weight.name}.bytes"
    raw = ir.ExternalTensor(
        stored.location,
        stored.offset,
        stored.length,
        ir.DataType.UINT8,
        shape=ir.Shape(shape),
        name=name,
        base_dir=stored.base_dir,
    )
    value = ir.Value(name=name, shape=raw.shape, type=ir.TensorType(raw.dtype), const_value=raw)
    model.graph.register_initializer(value)
    return value
