"""ExpandRotary: RoPE in operators that TensorRT 10.3 (JetPack 6) knows."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.rewrite import Chain, constant, nodes


class ExpandRotary(InPlacePass):
    """RotaryEmbedding → (x₁cos − x₂sin, x₂cos + x₁sin) over the halves of each head.

    requires: rotate-half form, positions ``[batch, sequence]``. ensures: none is left; cos and
    sin are gathered once and shared by all layers.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        rotaries = nodes(model, "RotaryEmbedding")
        shared: dict[str, ir.Value] = {}
        for index, old in enumerate(rotaries):
            _expand(model, old, shared, f"rope.{index}")
        return PassResult(model, modified=bool(rotaries))


def _expand(model: ir.Model, old: ir.Node, shared: dict[str, ir.Value], name: str) -> None:
    x, cos, sin, positions = old.inputs
    heads = old.attributes["num_heads"].as_int()
    width = x.shape[-1] if x is not None and x.shape is not None else None
    if not isinstance(width, int):
        raise ValueError(f"{old.name}: the width of its input is unknown")
    split = constant(model, "rope.heads", np.array([0, 0, heads, width // heads], np.int64))
    join = constant(model, "rope.joined", np.array([0, 0, width], np.int64))
    axis = constant(model, "rope.head_axis", np.array([2], np.int64))
    chain = Chain(name)
    for key, table in (("cos", cos), ("sin", sin)):
        if key not in shared:
            rows = chain.op("Gather", [table, positions], f"{key}.rows", axis=0)
            shared[key] = chain.op("Unsqueeze", [rows, axis], key)
    per_head = chain.op("Reshape", [x, split], "per_head")
    chain.op("Split", [per_head], "halves", outputs=2, axis=-1, num_outputs=2)
    x1, x2 = chain.nodes[-1].outputs
    terms = {
        f"{half}{key}": chain.op("Mul", [value, shared[key]], f"{half}.{key}")
        for half, value in (("1", x1), ("2", x2))
        for key in ("cos", "sin")
    }
    low = chain.op("Sub", [terms["1cos"], terms["2sin"]], "low")
    high = chain.op("Add", [terms["2cos"], terms["1sin"]], "high")
    both = chain.op("Concat", [low, high], "rotated", axis=-1)
    chain.op("Reshape", [both, join], "joined")
    chain.replace(model, old)
