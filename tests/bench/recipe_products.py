"""Which matrix products of a quantised graph have both operands in INT8, as the graph tells.

A product's operand is in INT8 where it comes, through nothing but changes of shape, from a
DequantizeLinear or a FakeQuantize (OpenVINO: for a weight, from a conversion of stored integers).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SHAPES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Expand", "Slice", "Split"}
_INTEGER = {"MatMulInteger", "QLinearMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
_BITS = {"MatMulNBits", "MatMulFpQ4"}  # stored in four bits, multiplied in floating point
_FLOAT = ("MatMul", "Gemm")


def products(path: Path) -> dict[str, int]:
    """``all``, those in ``int8``, and those of which the ``stored`` weight alone is in integers."""
    counted = _openvino(path) if path.suffix == ".xml" else _onnx(path)
    return {"all": sum(counted.values()), **{k: counted[k] for k in ("int8", "stored")}}


def _onnx(path: Path) -> Counter[str]:
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    makers = {name: node for node in graph.node for name in node.output}
    found: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type in _INTEGER:
            found["int8"] += 1
        elif node.op_type in _BITS:
            found["stored"] += 1
        elif node.op_type in _FLOAT:
            found[_kind([_dequantised(name, makers) for name in node.input[:2]])] += 1
    return found


def _kind(operands: list[bool]) -> str:
    return "int8" if all(operands) else "stored" if any(operands) else "float"


def _dequantised(name: str, makers: Mapping[str, Any]) -> bool:
    node = makers.get(name)
    while node is not None and node.op_type in _SHAPES:
        node = makers.get(node.input[0])
    return node is not None and node.op_type == "DequantizeLinear"


def _openvino(path: Path) -> Counter[str]:
    import openvino as ov

    found: Counter[str] = Counter()
    for node in ov.Core().read_model(path).get_ordered_ops():
        if node.get_type_name() == "MatMul":
            sources = [node.input_value(i).get_node() for i in (0, 1)]
            found[_kind([_integers(source) for source in sources])] += 1
    return found


def _integers(node: Any) -> bool:
    """FakeQuantize, or Multiply(Convert(integers), scales), behind changes of shape."""
    while node.get_type_name() in _SHAPES | {"Convert"} and node.get_input_size():
        if node.get_type_name() == "Convert" and _stored(node.input_value(0).get_node()):
            return True
        node = node.input_value(0).get_node()
    if node.get_type_name() == "FakeQuantize":
        return True
    if node.get_type_name() not in ("Multiply", "Subtract"):
        return False
    return _integers(node.input_value(0).get_node()) and _weight(node)


def _stored(node: Any) -> bool:
    integers = {"i8", "u8", "i4", "u4"}
    return (
        node.get_type_name() == "Constant" and node.get_element_type().get_type_name() in integers
    )


def _weight(node: Any) -> bool:
    """Whether nothing but constants is behind a node."""
    if node.get_type_name() == "Parameter":
        return False
    return all(_weight(node.input_value(i).get_node()) for i in range(node.get_input_size()))
