"""What every pass needs: finding nodes, and putting new ones in an old one's place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

Attribute = int | float | Sequence[int] | ir.Graph
CONTRIB = "com.microsoft"  # ONNX Runtime's own operators


def nodes(model: ir.Model, op_type: str) -> list[ir.Node]:
    """The graph's nodes of one standard operator, in topological order."""
    return [n for n in model.graph if n.op_type == op_type and n.domain == ""]


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node of the given operator that computes ``value``, if there is one."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type else None


def only_use(value: ir.Value) -> bool:
    """Whether one node consumes ``value`` and it is no output of the graph."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def is_weight(value: ir.Value | None) -> TypeGuard[ir.Value]:
    """Whether ``value`` is an initializer."""
    return value is not None and value.is_initializer()


def split_vector(binary: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """A node's two operands as (value, vector) where one is a weight vector, maybe widened."""
    for vector, value in (binary.inputs, reversed(binary.inputs)):
        cast = producer(vector, "Cast")
        weight = cast.inputs[0] if cast is not None else vector
        if vector is None or value is None or not is_weight(weight):
            continue
        if weight.shape is not None and len(weight.shape) == 1:
            return value, vector
    return None


def vector_user(product: ir.Node, op_type: str) -> tuple[ir.Node, ir.Value] | None:
    """The one user of a product, of this operator and with a weight vector, and the vector."""
    users = product.outputs[0].consumers()
    if not only_use(product.outputs[0]) or users[0].op_type != op_type:
        return None
    operands = split_vector(users[0])
    if operands is None or operands[0] is not product.outputs[0]:
        return None
    return users[0], operands[1]


def replace(model: ir.Model, old: Sequence[ir.Node], new: Sequence[ir.Node]) -> None:
    """Put ``new`` where the last of ``old`` stands; its last output becomes the old one's.

    ``old`` runs from the first to the last node of a matched pattern.
    """
    ir.convenience.replace_nodes_and_values(
        model.graph,
        old[-1],
        list(reversed(old)),
        list(new),
        [old[-1].outputs[0]],
        [new[-1].outputs[0]],
    )


def constant(model: ir.Model, name: str, value: NDArray[Any]) -> ir.Value:
    """An initializer of the given name, made once per model."""
    if name not in model.graph.initializers:
        tensor = ir.Tensor(value, name=name)
        initializer = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
        initializer.const_value = tensor
        model.graph.register_initializer(initializer)
    return model.graph.initializers[name]


def node(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    like: ir.Value | None = None,
    *,
    name: str,
    domain: str = "",
    outputs: int = 1,
    **attributes: Attribute,
) -> ir.Node:
    """A node named ``name`` whose outputs carry that name too; types are copied from ``like``."""
    new = ir.node(op_type, inputs, attributes, domain=domain, num_outputs=outputs, name=name)
    for index, output in enumerate(new.outputs):
        output.name = f"{name}.out{index or ''}"
        if like is not None:
            output.type, output.shape = like.type, like.shape if outputs == 1 else None
    return new


class Chain:
    """The nodes of one replacement, in order, named after it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[ir.Node] = []

    def op(
        self, op_type: str, inputs: Sequence[ir.Value | None], suffix: str, **attributes: Any
    ) -> ir.Value:
        """Append a node; its first output."""
        self.nodes.append(node(op_type, inputs, name=f"{self.name}.{suffix}", **attributes))
        return self.nodes[-1].outputs[0]

    def ops(
        self, op_type: str, inputs: Sequence[ir.Value | None], suffix: str, **attributes: Any
    ) -> Sequence[ir.Value]:
        """Append a node of several outputs; all of them."""
        self.op(op_type, inputs, suffix, **attributes)
        return self.nodes[-1].outputs

    def replace(self, model: ir.Model, old: ir.Node) -> None:
        """Put the chain in ``old``'s place; its last output takes over ``old``'s type."""
        last = self.nodes[-1].outputs[0]
        last.type, last.shape = old.outputs[0].type, old.outputs[0].shape
        replace(model, [old], self.nodes)


def drop_unused(model: ir.Model) -> None:
    """Remove nodes and initializers that nothing uses any more."""
    RemoveUnusedNodesPass()(model)
