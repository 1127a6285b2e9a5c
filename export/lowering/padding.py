"""Whether a call has padding, asked once per call by the nodes that choose a kernel by it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.graph.rewrite import constant, node
from runtimes.tensors import ATTENTION_MASK


def mask_input(model: ir.Model) -> ir.Value:
    """The graph's ``attention_mask``, int64 ``[batch, sequence]``."""
    return next(v for v in model.graph.inputs if v.name == ATTENTION_MASK.name)


def insert_first(model: ir.Model, *new: ir.Node) -> None:
    """Put nodes that need inputs alone before all others, in their order."""
    first = next(iter(model.graph))
    for added in new:
        model.graph.insert_before(first, added)


def no_padding(model: ir.Model) -> ir.Value:
    """A bool scalar of the graph: every token of every row counts."""
    least = node("ReduceMin", [mask_input(model)], name="mask.least", keepdims=0)
    one = constant(model, "mask.one", np.array(1, np.int64))
    full = node("Equal", [least.outputs[0], one], name="mask.full")
    insert_first(model, least, full)
    return full.outputs[0]


def choice(
    old: ir.Node, condition: ir.Value, then_branch: ir.Node, else_branch: ir.Node
) -> ir.Node:
    """An If named after ``old`` over two nodes, each the whole of its branch."""
    then_graph, else_graph = (
        ir.Graph([], [branch.outputs[0]], nodes=[branch], name=branch.name)
        for branch in (then_branch, else_branch)
    )
    return node(
        "If",
        [condition],
        old.outputs[0],
        name=f"{old.name}.if",
        then_branch=then_graph,
        else_branch=else_graph,
    )
