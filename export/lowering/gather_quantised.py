"""GatherQuantised: rows of a quantised table are gathered first and made numbers then.

ONNX Runtime folds DequantizeLinear of a constant when it loads, and would hold all of the table in
FP32. INT8 is gathered as it is stored and multiplied by the scales of its rows; of INT4, of which
ONNX Runtime's Gather reads no rows, GatherBlockQuantized does both.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.rewrite import CONTRIB, Chain, constant, nodes, producer, replace


class GatherQuantised(InPlacePass):
    """Gather(DQ(table, scales), ids) → Cast(Gather(table, ids)) · Gather(scales, ids).

    With scales of blocks: GatherBlockQuantized(table, ids, scales). requires: typed scales, before
    they are widened. ensures: no dequantised table is gathered from.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        modified = False
        for gather in nodes(model, "Gather"):
            restored = producer(gather.inputs[0], "DequantizeLinear")
            if restored is not None:
                _replace(model, gather, restored)
                modified = True
        return PassResult(model, modified=modified)


def _replace(model: ir.Model, gather: ir.Node, restored: ir.Node) -> None:
    table, scales = restored.inputs[:2]
    ids, rows = gather.inputs[1], gather.outputs[0]
    if scales is None or scales.dtype is None:
        raise ValueError(f"{gather.name}: its scales have no type")
    chain = Chain(f"{gather.name}.quantised")
    block = restored.attributes.get_int("block_size", 0)
    if block:
        chain.op(
            "GatherBlockQuantized",
            [table, ids, scales],
            "rows",
            domain=CONTRIB,
            gather_axis=0,
            quantize_axis=1,
            block_size=block,
        )
        model.graph.opset_imports[CONTRIB] = 1
    else:
        last = constant(model, "table.last", np.array([-1], np.int64))
        stored = chain.op("Gather", [table, ids], "stored")
        steps = chain.op("Cast", [stored], "steps", to=scales.dtype.value)
        scale = chain.op("Unsqueeze", [chain.op("Gather", [scales, ids], "scale"), last], "wide")
        chain.op("Mul", [steps, scale], "rows")
    _type(chain, scales.type, table)
    chain.nodes[-1].outputs[0].shape = rows.shape
    replace(model, [restored, gather], chain.nodes)


def _type(chain: Chain, kind: ir.TypeProtocol | None, table: ir.Value | None) -> None:
    """Every value has the scales' type but for what is gathered as it is stored."""
    for each in chain.nodes:
        stored = table is not None and each.op_type == "Gather" and each.inputs[0] is table
        each.outputs[0].type = table.type if stored and table is not None else kind
