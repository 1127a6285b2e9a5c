"""Rewrites the portable graph for each executor. One pass per file, one pipeline per kind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import onnx_ir as ir
from onnx_ir.passes import InPlacePass

from export.lowering.adapt_attention import AdaptAttention
from export.lowering.expand_attention import ExpandAttention
from export.lowering.expand_gelu import ExpandGelu
from export.lowering.expand_rotary import ExpandRotary
from export.lowering.fuse_bias_gelu import FuseBiasGelu
from export.lowering.fuse_skip_layer_norm import FuseSkipLayerNorm
from export.lowering.gather_quantised import GatherQuantised
from export.lowering.give_token_vectors import GiveTokenVectors
from export.lowering.set_opset import SetOpset
from export.lowering.split_heads_first import SplitHeadsFirst
from export.lowering.stack_low_rank import StackLowRank
from export.lowering.use_contrib_attention import UseContribAttention
from export.lowering.use_contrib_rotary import UseContribRotary
from export.lowering.use_integer_mat_mul import UseIntegerMatMul
from export.lowering.use_key_lengths import UseKeyLengths
from export.lowering.use_mat_mul_n_bits import UseMatMulNBits
from export.lowering.widen_attention import WidenAttention
from export.lowering.widen_to_float32 import WidenToFloat32
from runtimes.choices import Accumulation, GraphKind

_PIPELINES: dict[GraphKind, tuple[Callable[[], InPlacePass], ...]] = {
    GraphKind.PORTABLE: (),
    GraphKind.ONNXRUNTIME: (
        GatherQuantised,
        WidenToFloat32,
        partial(StackLowRank, saved=3, paid=2),
        UseContribRotary,
        UseContribAttention,
        FuseSkipLayerNorm,
        FuseBiasGelu,
        UseIntegerMatMul,
        UseMatMulNBits,
        GiveTokenVectors,
        partial(SetOpset, 18),  # ONNX Runtime reads newer ones from 1.23 on
    ),
    GraphKind.OPENVINO: (GiveTokenVectors,),  # export.lowering.openvino_ir makes IR of it
    GraphKind.ONNXRUNTIME_CUDA: (GatherQuantised, UseContribRotary, UseKeyLengths),
    GraphKind.TENSORRT: (
        partial(StackLowRank, saved=2, paid=3),
        SplitHeadsFirst,
        AdaptAttention,
        WidenAttention,
    ),
    # 20 is what the parser of JetPack 6, TensorRT 10.3, reads at most.
    GraphKind.PRIMITIVE: (ExpandRotary, ExpandAttention, ExpandGelu, partial(SetOpset, 20)),
}


def lower(
    model: ir.Model, kind: GraphKind, accumulation: Accumulation | None = Accumulation.FP32
) -> ir.Model:
    """Rewrite ``model`` in place for ``kind`` and return it.

    ``accumulation`` is that of an engine's attention.
    """
    for make_pass in _PIPELINES[kind]:
        if make_pass is WidenAttention and accumulation is Accumulation.FP16:
            continue
        model = make_pass()(model).model
    return model
