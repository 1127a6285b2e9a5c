"""The quantised table in the graph: DequantizeLinear before the gather.

TensorRT-RTX makes one kernel of the two, which holds the table as it is stored, and takes a
quantised constant before no other operator. ONNX Runtime would dequantise all of it when it loads
(:mod:`export.lowering.gather_quantised` turns the two round).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from export.graph.rewrite import node, nodes
from export.graph.table import SCALES, TABLE, QuantisedTable
from export.graph.trace import PortableGraph, relaid


def quantise_table(graph: PortableGraph, table: QuantisedTable) -> PortableGraph:
    """The graph with Gather(table, ids) → Gather(DequantizeLinear(table, scales), ids)."""
    model = graph.model()
    weight = model.graph.initializers[TABLE]
    entries, width = _insert(model, weight, table)
    stored = {
        TABLE: (table.storage.dtype, (entries, width)),
        SCALES: (table.dtype, table.scale_shape(entries, width)),
    }
    return relaid(graph, model, {**graph.tensors, **stored})


def _insert(model: ir.Model, weight: ir.Value, table: QuantisedTable) -> tuple[int, int]:
    """Put DequantizeLinear before the table's only reader; the table's shape."""
    (gather,) = (n for n in nodes(model, "Gather") if n.inputs[0] is weight)
    kind, shape, block = weight.type, weight.shape, table.storage.block
    if kind is None or shape is None or len(weight.uses()) > 1:
        raise ValueError(f"{TABLE}: expected one Gather of a table of known type and shape")
    entries, width = shape.numpy()
    scales = ir.Value(name=SCALES, shape=ir.Shape(table.scale_shape(entries, width)), type=kind)
    model.graph.initializers.add(scales)
    weight.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(table.storage.dtype)))
    along: dict[str, Any] = {"axis": 0} if block is None else {"axis": 1, "block_size": block}
    rows = node("DequantizeLinear", [weight, scales], name=f"{TABLE}_dequantise", **along)
    rows.outputs[0].type, rows.outputs[0].shape = kind, shape
    gather.replace_input_with(0, rows.outputs[0])
    model.graph.insert_before(gather, rows)
    return entries, width
