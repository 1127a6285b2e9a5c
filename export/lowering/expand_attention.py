"""ExpandAttention: attention as the matrix products that TensorRT 10.3 fuses itself."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.rewrite import Chain, constant, drop_unused, nodes, producer


class ExpandAttention(InPlacePass):
    """Attention → (Q/√d)·Kᵀ → Where(mask) → Softmax → ·V, the pattern TensorRT's fuser looks for.

    Q is scaled before the product, which also keeps FP16 scores in range. Padding gets the type's
    lowest finite number: a row of −∞ would be NaN. ensures: no Attention is left.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        attentions = nodes(model, "Attention")
        for index, old in enumerate(attentions):
            _expand(model, old, f"attention.{index}")
        drop_unused(model)
        return PassResult(model, modified=bool(attentions))


def _expand(model: ir.Model, old: ir.Node, name: str) -> None:
    q, k, v, mask = old.inputs[:4]
    result, heads = old.outputs[0], old.attributes["q_num_heads"].as_int()
    if result.shape is None or result.dtype is None or not isinstance(result.shape[-1], int):
        raise ValueError(f"{old.name}: the type of its output is unknown")
    width = result.shape[-1]
    dtype = result.dtype.numpy()
    least = np.array(ml_dtypes.finfo(dtype).min).astype(dtype)
    split = constant(model, "attention.heads", np.array([0, 0, heads, width // heads], np.int64))
    join = constant(model, "attention.joined", np.array([0, 0, width], np.int64))
    scale = constant(model, "attention.scale", np.array((width // heads) ** -0.5).astype(dtype))
    lowest = constant(model, "attention.lowest", least)
    expand = producer(mask, "Expand")
    keys = expand.inputs[0] if expand is not None else mask
    chain = Chain(name)

    def per_head(value: ir.Value | None, suffix: str, perm: list[int]) -> ir.Value:
        rows = chain.op("Reshape", [value, split], suffix)
        return chain.op("Transpose", [rows], f"{suffix}.t", perm=perm)

    queries = chain.op("Mul", [per_head(q, "q", [0, 2, 1, 3]), scale], "q.scaled")
    scores = chain.op("MatMul", [queries, per_head(k, "k", [0, 2, 3, 1])], "scores")
    masked = chain.op("Where", [keys, scores, lowest], "masked")
    weights = chain.op("Softmax", [masked], "weights", axis=-1)
    mixed = chain.op("MatMul", [weights, per_head(v, "v", [0, 2, 1, 3])], "mixed")
    rows = chain.op("Transpose", [mixed], "rows", perm=[0, 2, 1, 3])
    chain.op("Reshape", [rows, join], "joined")
    chain.replace(model, old)
