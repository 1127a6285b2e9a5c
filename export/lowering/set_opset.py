"""SetOpset: declares an older opset once nothing newer is left."""

from __future__ import annotations

import onnx_ir as ir
from onnx.defs import get_schema, has
from onnx_ir.passes import InPlacePass, PassResult

_FLOAT8_OPSET = 19  # the first whose operators take E4M3
_IR_VERSIONS = {18: 8, 19: 9, 20: 9}  # that of each opset's release of ONNX
_INT4_IR_VERSION = 10  # the first in which tensors are of INT4; ONNX Runtime 1.20 reads it


class SetOpset(InPlacePass):
    """requires: no operator or attribute newer than the opset. ensures: the model declares it.

    Every operator the encoder uses means the same in 18 and 23, which only add element types and
    attributes. A graph with 8-bit floats declares 19 at least; of INT4, which only an operator of
    ONNX Runtime's own reads, the file's format is newer.
    """

    def __init__(self, opset: int) -> None:
        self._opset = opset

    def call(self, model: ir.Model) -> PassResult:
        """Run the pass."""
        opset = max(self._opset, _FLOAT8_OPSET) if _has_float8(model) else self._opset
        for node in model.graph:
            if node.domain == "":
                _check(node, opset)
        model.graph.opset_imports[""] = opset
        model.ir_version = _IR_VERSIONS[opset] if not _has_int4(model) else _INT4_IR_VERSION
        return PassResult(model, modified=True)


def _check(node: ir.Node, opset: int) -> None:
    if not has(node.op_type, opset, ""):
        raise ValueError(f"{node.op_type} is newer than opset {opset}")
    known = get_schema(node.op_type, opset, "").attributes
    newer = sorted(set(node.attributes) - set(known))
    if newer:
        raise ValueError(f"{node.op_type}: {', '.join(newer)} is newer than opset {opset}")


def _has_float8(model: ir.Model) -> bool:
    return any(
        value.dtype is not None and value.dtype.bitwidth == 8 and value.dtype.is_floating_point()
        for value in model.graph.initializers.values()
    )


def _has_int4(model: ir.Model) -> bool:
    return any(v.dtype is ir.DataType.INT4 for v in model.graph.initializers.values())
