"""Quantisation in the graph: Q/DQ pairs around the GEMMs of a precision plan.

The rules are TensorRT's for strongly typed networks (and ONNX Runtime's CPU lowering starts from
the same nodes): symmetric, zero point 0, one scale per activation tensor. A weight is stored
quantised, with a scale per output channel, one alone, or one with the channels' shares of it
(:class:`~export.graph.precision_plan.PrecisionPlan`). DequantizeLinear gives its scale's type, so
the scales have the element type of the rest of the graph. Everything but the GEMMs stays as it
was: the residual sum and an adapter's low-rank path read the activation before it is smoothed and
quantised.

A weight that alone is quantised is stored transposed, with a scale per block of a channel's
numbers: so one copy of it serves engines, whose compiler turns it back, and ONNX Runtime's
MatMulNBits (:mod:`export.lowering.use_mat_mul_n_bits`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.gemms import gemm_nodes
from export.graph.precision_plan import (
    CHANNEL_SCALE,
    FACTORS,
    INPUT_SCALE,
    WEIGHT_SCALE,
    PrecisionPlan,
)
from export.graph.rewrite import constant, node
from export.graph.trace import PortableGraph, relaid
from runtimes.schemes import Storage


def quantise_graph(graph: PortableGraph, plan: PrecisionPlan) -> PortableGraph:
    """The portable graph with the plan's GEMMs quantised, and the layout of its new tensors."""
    model = InsertQdq(plan)(graph.model()).model
    tensors = graph.tensors
    for name in plan.quantised:
        for part in ("weight", WEIGHT_SCALE, CHANNEL_SCALE, INPUT_SCALE, FACTORS):
            value = model.graph.initializers.get(f"{name}.{part}")
            if value is not None and value.dtype is not None and value.shape is not None:
                tensors[f"{name}.{part}"] = (str(value.dtype.numpy()), tuple(value.shape.numpy()))
    return relaid(graph, model, tensors)


class InsertQdq(InPlacePass):
    """MatMul(x, W) → MatMul(DQ(Q(x · factors)), DQ(quantised W)) [· shares] for the plan's GEMMs.

    Of a weight alone: MatMul(x, Transpose(DQ(quantised Wᵀ))). requires: weights under canonical
    names, as the second operand. ensures: each of the plan's GEMMs has Q/DQ on both operands, or
    DQ on its weight; their new tensors are initializers without values.
    """

    def __init__(self, plan: PrecisionPlan) -> None:
        self.plan = plan

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        products = gemm_nodes(model)
        if missing := self.plan.quantised.keys() - products.keys():
            raise ValueError(f"the graph has no product of {', '.join(sorted(missing))}")
        for name, entry in self.plan.quantised.items():
            if entry is None:
                _quantise_weight(model, products[name], name, self.plan.storage_of(name))
            else:
                _quantise(model, products[name], name, self.plan, smoothed=entry.alpha > 0)
        return PassResult(model, modified=bool(self.plan.quantised))


def _quantise(
    model: ir.Model, gemm: ir.Node, name: str, plan: PrecisionPlan, *, smoothed: bool
) -> None:
    storage = plan.scheme.operands
    x, weight = gemm.inputs[:2]
    if x is None or weight is None or x.type is None or weight.shape is None:
        raise ValueError(f"{gemm.name}: the type of an operand is unknown")
    rows, columns = weight.shape.numpy()
    dtype = np.dtype(storage.dtype)
    per_channel = storage.weight_axis is not None and not plan.has_shares
    new_nodes: list[ir.Node] = []

    def op(op_type: str, inputs: list[ir.Value], suffix: str, **attributes: Any) -> ir.Value:
        like = weight if suffix.startswith("weight") else x
        new_nodes.append(node(op_type, inputs, like, name=f"{name}.{suffix}", **attributes))
        return new_nodes[-1].outputs[0]

    scale = _tensor(model, f"{name}.{INPUT_SCALE}", (), x.type)
    scales = (columns,) if per_channel else ()
    weight_scale = _tensor(model, f"{name}.{WEIGHT_SCALE}", scales, x.type)
    zero = constant(model, "qdq.zero", np.array(0, dtype))
    smooth = x
    if smoothed:
        factors = _tensor(model, f"{name}.{FACTORS}", (rows,), x.type)
        smooth = op("Mul", [x, factors], "smooth")
    quantised = op("QuantizeLinear", [smooth, scale, zero], "quantise")
    quantised.type = ir.TensorType(ir.DataType.from_numpy(dtype))
    activation = op("DequantizeLinear", [quantised, scale], "dequantise")
    along = {"axis": storage.weight_axis} if per_channel else {}
    matrix = op("DequantizeLinear", [weight, weight_scale], "weight_dequantise", **along)
    weight.type = quantised.type
    for index, value in enumerate((activation, matrix)):
        gemm.replace_input_with(index, value)
    model.graph.insert_before(gemm, new_nodes)
    if plan.has_shares:
        _scale_channels(model, gemm, _tensor(model, f"{name}.{CHANNEL_SCALE}", (columns,), x.type))


def _quantise_weight(model: ir.Model, gemm: ir.Node, name: str, storage: Storage) -> None:
    x, weight = gemm.inputs[:2]
    if x is None or weight is None or x.type is None or weight.shape is None:
        raise ValueError(f"{gemm.name}: the type of an operand is unknown")
    rows, columns = weight.shape.numpy()
    weight.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(storage.dtype)))
    weight.shape = ir.Shape((columns, rows))
    blocks = storage.block
    shape = (columns,) if blocks is None else (columns, rows // blocks)
    scales = _tensor(model, f"{name}.{WEIGHT_SCALE}", shape, x.type)
    along: dict[str, Any] = {"axis": 0} if blocks is None else {"axis": 1, "block_size": blocks}
    stem = f"{name}.weight"
    restored = node("DequantizeLinear", [weight, scales], name=f"{stem}_dequantise", **along)
    turned = node("Transpose", restored.outputs, name=f"{stem}_transpose", perm=[1, 0])
    for each, size in ((restored, (columns, rows)), (turned, (rows, columns))):
        each.outputs[0].type, each.outputs[0].shape = x.type, ir.Shape(size)
    gemm.replace_input_with(1, turned.outputs[0])
    model.graph.insert_before(gemm, [restored, turned])


def _scale_channels(model: ir.Model, gemm: ir.Node, shares: ir.Value) -> None:
    """Multiply the product by each channel's share of the weight's scale."""
    product = gemm.outputs[0]
    scaled = node("Mul", [product, shares], product, name=f"{gemm.name}.channels")
    ir.convenience.replace_all_uses_with(product, scaled.outputs[0])
    scaled.replace_input_with(0, product)
    model.graph.insert_after(gemm, scaled)


def _tensor(model: ir.Model, name: str, shape: tuple[int, ...], kind: ir.TypeProtocol) -> ir.Value:
    value = ir.Value(name=name, shape=ir.Shape(shape), type=kind)
    model.graph.initializers.add(value)
    return value
