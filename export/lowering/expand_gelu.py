"""ExpandGelu: the activation in operators that every TensorRT reads and fuses again."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.rewrite import Chain, constant, nodes


class ExpandGelu(InPlacePass):
    """Gelu → x · (1 + erf(x / √2)) · ½, in the order that TensorRT looks for.

    The operator came with opset 20, and no release note of TensorRT's parser names it before 10.3.
    requires: the exact form, not the tanh one. ensures: no Gelu is left.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        gelus = nodes(model, "Gelu")
        for index, old in enumerate(gelus):
            _expand(model, old, f"gelu.{index}")
        return PassResult(model, modified=bool(gelus))


def _expand(model: ir.Model, old: ir.Node, name: str) -> None:
    approximate = old.attributes.get("approximate")
    if approximate is not None and approximate.as_string() != "none":
        raise ValueError(f"{old.name}: only the exact Gelu is expanded")
    x, dtype = old.inputs[0], old.outputs[0].dtype
    if dtype is None:
        raise ValueError(f"{old.name}: its type is unknown")
    root, one, half = (
        constant(model, f"gelu.{key}", np.array(value, np.float64).astype(dtype.numpy()))
        for key, value in (("root", np.sqrt(2)), ("one", 1), ("half", 0.5))
    )
    chain = Chain(name)
    scaled = chain.op("Div", [x, root], "scaled")
    error = chain.op("Erf", [scaled], "erf")
    doubled = chain.op("Add", [error, one], "doubled")
    product = chain.op("Mul", [x, doubled], "product")
    chain.op("Mul", [product, half], "halved")
    chain.replace(model, old)
