"""Rewrites the portable graph for each executor. One pass per file, one pipeline per kind."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import onnx_ir as ir
from onnx_ir.passes import InPlacePass

from export.lowering.contrib_attention import UseContribAttention
from export.lowering.contrib_rotary import UseContribRotary
from export.lowering.cuda_attention import UseKeyLengths
from export.lowering.fuse_bias_gelu import FuseBiasGelu
from export.lowering.fuse_skip_layer_norm import FuseSkipLayerNorm
from export.lowering.integer_matmul import UseIntegerMatMul
from export.lowering.primitive_attention import ExpandAttention
from export.lowering.primitive_gelu import ExpandGelu
from export.lowering.primitive_rotary import ExpandRotary
from export.lowering.set_opset import SetOpset
from export.lowering.stack_low_rank import StackLowRank
from export.lowering.tensorrt_attention import AdaptAttention
from export.lowering.widen import WidenToFloat32


class Kind(StrEnum):
    """What a graph in a bundle is for; also its name in the manifest."""

    PORTABLE = "portable"
    ONNXRUNTIME = "onnxruntime"  # on a CPU
    ONNXRUNTIME_CUDA = "onnxruntime_cuda"
    TENSORRT = "tensorrt"
    PRIMITIVE = "primitive"


_PIPELINES: dict[Kind, tuple[Callable[[], InPlacePass], ...]] = {
    Kind.PORTABLE: (),
    Kind.ONNXRUNTIME: (
        WidenToFloat32, StackLowRank, UseContribRotary, UseContribAttention, FuseSkipLayerNorm,
        FuseBiasGelu, UseIntegerMatMul,
    ),
    Kind.ONNXRUNTIME_CUDA: (UseContribRotary, UseKeyLengths),
    Kind.TENSORRT: (AdaptAttention,),
    Kind.PRIMITIVE: (ExpandRotary, ExpandAttention, ExpandGelu, SetOpset),
}  # fmt: skip


def lower(model: ir.Model, kind: Kind) -> ir.Model:
    """Rewrite ``model`` in place for ``kind`` and return it."""
    for make_pass in _PIPELINES[kind]:
        model = make_pass()(model).model
    return model
