"""WidenToFloat32: half-precision weights, FP32 arithmetic.

ONNX Runtime has no half-precision matrix product on a CPU; it would put a pair of casts around
each one at every call. Here weights stay half on disk and are widened once, when ONNX Runtime
folds the Cast at load; the embedding table stays half in memory, since only gathered rows widen.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.rewrite import node, nodes

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_FLOAT = ir.TensorType(ir.DataType.FLOAT)


class WidenToFloat32(InPlacePass):
    """requires: a typed graph. ensures: every floating activation is FP32; casts only widen."""

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        halves = [v for v in model.graph.initializers.values() if v.dtype in _HALF]
        if not halves:
            return PassResult(model, modified=False)
        for cast in nodes(model, "Cast"):
            _widen_cast(model, cast)
        for each in model.graph:
            for output in each.outputs:
                if output.dtype in _HALF:
                    output.type = _FLOAT
        for value in halves:
            _widen(model, value)
        return PassResult(model, modified=True)


def _widen_cast(model: ir.Model, cast: ir.Node) -> None:
    """A cast between floats goes; one from integers or booleans gives FP32."""
    source, target = cast.inputs[0], cast.outputs[0]
    floats = (*_HALF, ir.DataType.FLOAT)
    if source is None or target.dtype not in floats:
        return
    if source.dtype in floats:
        target.replace_all_uses_with(source, replace_graph_outputs=True)
        model.graph.remove(cast, safe=True)
    else:
        cast.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT.value)


def _widen(model: ir.Model, value: ir.Value) -> None:
    users = list(value.uses())
    gathers = [use.node for use in users if use.node.op_type == "Gather"]
    for gather in gathers:
        rows = gather.outputs[0]
        rows.type = value.type
        cast = node("Cast", [rows], name=f"{value.name}.rows", to=ir.DataType.FLOAT.value)
        cast.outputs[0].type, cast.outputs[0].shape = _FLOAT, rows.shape
        rows.replace_all_uses_with(cast.outputs[0], replace_graph_outputs=True)
        cast.replace_input_with(0, rows)
        model.graph.insert_after(gather, cast)
    rest = [use for use in users if use.node not in gathers]
    if rest:
        cast = node("Cast", [value], name=f"{value.name}.wide", to=ir.DataType.FLOAT.value)
        cast.outputs[0].type, cast.outputs[0].shape = _FLOAT, value.shape
        model.graph.insert_before(next(iter(model.graph)), cast)
        for use in rest:
            use.node.replace_input_with(use.idx, cast.outputs[0])
