"""UseKeyLengths: flash attention on a GPU in ONNX Runtime, which takes no mask.

Its CUDA provider runs the flash kernel for FP16 and BF16 only where Attention has no mask. Opset
24 lets it take the number of real keys of each row instead, so padding costs no memory: the mask
of size batch × sequence² is never made.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from export.graph.rewrite import constant, drop_unused, node, nodes, replace
from runtimes.tensors import ATTENTION_MASK

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
        lengths = _key_lengths(model)
        for old in attentions:
            q, k, v = old.inputs[:3]
            heads = old.attributes["q_num_heads"].as_int()
            new = node(
                "Attention",
                [q, k, v, None, None, None, lengths],
                old.outputs[0],
                name=f"{old.name}.lengths",
                q_num_heads=heads,
                kv_num_heads=heads,
            )
            replace(model, [old], [new])
        drop_unused(model)
        model.graph.opset_imports[""] = OPSET
        model.ir_version = 11
        return PassResult(model, modified=True)


def _key_lengths(model: ir.Model) -> ir.Value:
    """Real tokens per row, int64 ``[batch]``."""
    mask = next(v for v in model.graph.inputs if v.name == ATTENTION_MASK.name)
    axis = constant(model, "mask.axis", np.array([1], np.int64))
    lengths = node("ReduceSum", [mask, axis], name="mask.lengths", keepdims=0)
    model.graph.insert_before(next(iter(model.graph)), lengths)
    return lengths.outputs[0]
