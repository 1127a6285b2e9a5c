"""GiveTokenVectors: the token vectors become an output too, for clients that pool by themselves."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from runtimes.heads import LAST_HIDDEN_STATE

_NORMS = ("LayerNormalization", "SkipLayerNormalization")


class GiveTokenVectors(InPlacePass):
    """requires: the graph's last norm gives the token vectors. ensures: they are an output.

    ``last_hidden_state`` comes first: some clients take the first output, the others its name.
    Graphs that give nothing else already stay as they are.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        tokens = [node for node in model.graph if node.op_type in _NORMS][-1].outputs[0]
        if tokens.is_graph_output():
            return PassResult(model, modified=False)
        tokens.name = LAST_HIDDEN_STATE.name
        model.graph.outputs.insert(0, tokens)
        return PassResult(model, modified=True)
