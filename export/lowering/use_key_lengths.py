"""UseKeyLengths: flash attention on a GPU in ONNX Runtime, which takes no mask.

Its CUDA provider runs the flash kernel for FP16 and BF16 only where Attention has no mask. Opset
24 lets it take the number of real keys of each row instead, so padding costs no memory: the mask
of size batch × sequence² is never made. With lengths it runs the kernel for decoding with a cache,
which is tuned for few queries, so each Attention becomes an If on "no padding anywhere": texts of
equal length go to the kernel for long sequences.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.rewrite import constant, drop_unused, node, nodes, replace
from export.lowering.padding import choice, insert_first, mask_input, no_padding

OPSET = 24  # the first with nonpad_kv_seqlen


class UseKeyLengths(InPlacePass):
    """requires: an ``attention_mask`` input, padding on the right. ensures: no Attention is masked.

    The padded rows of the result are finite and meaningless; pooling leaves them out.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        attentions = nodes(model, "Attention")
        if not attentions:
            return PassResult(model, modified=False)
        full, lengths = no_padding(model), _key_lengths(model)
        for old in attentions:
            q, k, v = old.inputs[:3]
            equal = _attention(old, [q, k, v], "equal")
            padded = _attention(old, [q, k, v, None, None, None, lengths], "lengths")
            replace(model, [old], [choice(old, full, equal, padded)])
        drop_unused(model)
        model.graph.opset_imports[""] = OPSET
        model.ir_version = 11
        return PassResult(model, modified=True)


def _key_lengths(model: ir.Model) -> ir.Value:
    """Real tokens per row, int64 ``[batch]``."""
    axis = constant(model, "mask.axis", np.array([1], np.int64))
    lengths = node("ReduceSum", [mask_input(model), axis], name="mask.lengths", keepdims=0)
    insert_first(model, lengths)
    return lengths.outputs[0]


def _attention(old: ir.Node, inputs: list[ir.Value | None], branch: str) -> ir.Node:
    heads = old.attributes["q_num_heads"].as_int()
    name = f"{old.name}.{branch}"
    return node(
        "Attention", inputs, old.outputs[0], name=name, q_num_heads=heads, kv_num_heads=heads
    )
