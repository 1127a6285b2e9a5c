"""SplitHeadsFirst: Q, K and V become heads in one kernel, and RoPE turns Q and K together.

TensorRT moves a Split up through whatever stands before it, so Split → RotaryEmbedding → Attention
on ``[batch, sequence, hidden]`` compiles to three kernels beside attention's on three streams: V's
layout, Q's rotation, K's. Where the heads are split off before Q, K and V are, all of that is one
kernel, and the product of Q, K and V stays whole, with its bias or its scales. Counts of launches:
docs/decisions/2026-11-28-compiled-plan.md.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.rewrite import Chain, constant, drop_unused, nodes, producer


class SplitHeadsFirst(InPlacePass):
    """Split(x) → RoPE(Q), RoPE(K), V → Attention, as heads ``[batch, heads, sequence, width]``.

    requires: Attention on Q, K and V of one Split, Q and K rotated by the same tables. ensures:
    Attention has operands and a result of four dimensions.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        attentions = nodes(model, "Attention")
        for attention in attentions:
            _rewrite(model, attention)
        drop_unused(model)
        return PassResult(model, modified=bool(attentions))


def _rewrite(model: ir.Model, attention: ir.Node) -> None:
    rotary = producer(attention.inputs[0], "RotaryEmbedding")
    split = producer(attention.inputs[2], "Split")
    if rotary is None or split is None or split.inputs[0] is None:
        raise ValueError(f"{attention.name}: its operands are not those of one Split")
    packed, heads = split.inputs[0], attention.attributes["q_num_heads"].as_int()
    width = packed.shape[-1] if packed.shape is not None else None
    if not isinstance(width, int):
        raise ValueError(f"{attention.name}: the width of its input is unknown")
    hidden = width // 3
    as_heads = constant(model, "qkv.heads", np.array([0, 0, 3 * heads, hidden // heads], np.int64))
    rotated = constant(model, "qkv.rotated", np.array([2 * heads, heads], np.int64))
    joined = constant(model, "qkv.joined", np.array([0, 0, hidden], np.int64))
    chain = Chain(attention.name or "attention")
    rows = chain.op("Reshape", [packed, as_heads], "rows")
    columns = chain.op("Transpose", [rows], "heads", perm=[0, 2, 1, 3])
    q_and_k, v = chain.ops("Split", [columns, rotated], "qk_and_v", outputs=2, axis=1)
    turned = chain.op("RotaryEmbedding", [q_and_k, *rotary.inputs[1:]], "rope")
    q, k = chain.ops("Split", [turned], "q_and_k", outputs=2, axis=1, num_outputs=2)
    mixed = chain.op("Attention", [q, k, v, *attention.inputs[3:]], "attention")
    back = chain.op("Transpose", [mixed], "rows_again", perm=[0, 2, 1, 3])
    chain.op("Reshape", [back, joined], "joined")
    kind = attention.outputs[0].type
    for node in chain.nodes:
        for output in node.outputs:
            output.type = kind
    chain.replace(model, attention)
